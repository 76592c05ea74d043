import { stripVTControlCharacters } from "node:util";

/**
 * Aligns rows in columns, two spaces apart. The first row is the head. A column is right-aligned if all cells below the head
 * are numbers.
 */
export function table(rows: readonly (readonly string[])[]): string[] {
  const widths = rows.reduce<number[]>((found, row) => {
    for (const [column, cell] of row.entries()) found[column] = Math.max(found[column] ?? 0, widthOf(cell));
    return found;
  }, []);
  const isNumeric = widths.map((_, column) =>
    rows.slice(1).every((row) => /^[\d,.]*$/.test(stripVTControlCharacters(row[column] ?? ""))),
  );
  return rows.map((row) =>
    row
      .map((cell, column) => {
        const padding = " ".repeat((widths[column] ?? 0) - widthOf(cell));
        return isNumeric[column] === true ? padding + cell : cell + padding;
      })
      .join("  ")
      .trimEnd(),
  );
}

function widthOf(cell: string): number {
  return stripVTControlCharacters(cell).length;
}
