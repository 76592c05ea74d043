import { encodePpm } from "./image.ts";
import { write } from "./storage.ts";

/** Writes some images of different sizes and colors. */
export async function writeSamples(count: number): Promise<string[]> {
  const keys = Array.from({ length: count }, (_, at) => `sample-${at + 1}.ppm`);
  for (const [at, key] of keys.entries()) {
    const [width, height] = [320 + 40 * at, 240];
    const pixels = new Uint8Array(3 * width * height);
    for (let index = 0; index < width * height; index += 1) {
      const [x, y] = [index % width, Math.floor(index / width)];
      pixels.set([(255 * x) / width, (255 * y) / height, (40 * at) % 256], 3 * index);
    }
    await write(key, encodePpm({ width, height, pixels }));
  }
  return keys;
}
