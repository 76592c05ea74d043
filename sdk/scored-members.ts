/** The members with a score of at most `limit`, from a reply of ZRANGE WITHSCORES. */
export function idsUpTo(limit: number, membersAndScores: unknown): unknown[] {
  const flat: readonly unknown[] = Array.isArray(membersAndScores) ? membersAndScores : [];
  return flat.filter((_, position) => position % 2 === 0 && Number(flat[position + 1]) <= limit);
}
