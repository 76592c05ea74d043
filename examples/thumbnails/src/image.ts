/** Reads and writes PPM (P6), and writes PNG: formats that need no native library. */

import { crc32, deflateSync } from "node:zlib";

/** Pixels by row, three bytes each: red, green, blue. */
export interface Image {
  readonly width: number;
  readonly height: number;
  readonly pixels: Uint8Array;
}

export function blank(width: number, height: number, grey = 255): Image {
  return { width, height, pixels: new Uint8Array(3 * width * height).fill(grey) };
}

/** Throws if the data is no PPM image with 8 bits per color. */
export function decodePpm(data: Uint8Array): Image {
  const header = /^P6\s+(\d+)\s+(\d+)\s+255\s/.exec(Buffer.from(data.subarray(0, 64)).toString("latin1"));
  const width = Number(header?.[1]);
  const height = Number(header?.[2]);
  const pixels = data.subarray(header?.[0].length ?? 0);
  if (header === null || pixels.length !== 3 * width * height) throw new Error("not a PPM image of type P6");
  return { width, height, pixels };
}

export function encodePpm({ width, height, pixels }: Image): Uint8Array {
  return Buffer.concat([Buffer.from(`P6\n${width} ${height}\n255\n`), pixels]);
}

export function encodePng({ width, height, pixels }: Image): Uint8Array {
  const size = Buffer.alloc(13);
  size.writeUInt32BE(width, 0);
  size.writeUInt32BE(height, 4);
  size.set([8, 2], 8); // 8 bits, RGB
  // Each row begins with its filter: 0, none.
  const rows = Buffer.alloc((3 * width + 1) * height);
  for (let y = 0; y < height; y += 1) {
    rows.set(pixels.subarray(3 * width * y, 3 * width * (y + 1)), (3 * width + 1) * y + 1);
  }
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  const parts = [chunk("IHDR", size), chunk("IDAT", deflateSync(rows)), chunk("IEND", Buffer.alloc(0))];
  return Buffer.concat([signature, ...parts]);
}

function chunk(type: string, data: Uint8Array): Buffer {
  const body = Buffer.concat([Buffer.from(type, "latin1"), data]);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  const checksum = Buffer.alloc(4);
  checksum.writeUInt32BE(crc32(body));
  return Buffer.concat([length, body, checksum]);
}

/** Scales an image down so that it fits into a square. Each new pixel is the average of those that it covers. */
export function fitInto(image: Image, side: number): Image {
  const scale = Math.min(1, side / Math.max(image.width, image.height));
  const width = Math.max(1, Math.round(image.width * scale));
  const height = Math.max(1, Math.round(image.height * scale));
  const pixels = new Uint8Array(3 * width * height);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) pixels.set(average(image, x, y, width, height), 3 * (y * width + x));
  }
  return { width, height, pixels };
}

function average(image: Image, x: number, y: number, width: number, height: number): number[] {
  const [left, right] = [Math.floor((x * image.width) / width), Math.ceil(((x + 1) * image.width) / width)];
  const [top, bottom] = [
    Math.floor((y * image.height) / height),
    Math.ceil(((y + 1) * image.height) / height),
  ];
  const sums = [0, 0, 0];
  for (let row = top; row < bottom; row += 1) {
    for (let column = left; column < right; column += 1) {
      const at = 3 * (row * image.width + column);
      for (const color of [0, 1, 2]) sums[color] = (sums[color] ?? 0) + (image.pixels[at + color] ?? 0);
    }
  }
  return sums.map((sum) => Math.round(sum / ((right - left) * (bottom - top))));
}

/** Copies an image into another one. */
export function paste(target: Image, image: Image, left: number, top: number): void {
  for (let y = 0; y < image.height; y += 1) {
    const row = image.pixels.subarray(3 * image.width * y, 3 * image.width * (y + 1));
    target.pixels.set(row, 3 * ((top + y) * target.width + left));
  }
}
