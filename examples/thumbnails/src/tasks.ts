/** The three tasks. They are the same in a Lambda function, in a container, and in a test. */

import { defineTask, NonRetryableError } from "sluice/worker";
import { z } from "zod";
import { blank, decodePpm, encodePng, encodePpm, fitInto, type Image, paste } from "./image.ts";
import { read, write } from "./storage.ts";

const LANE = "images";
const COLUMNS = 4;
const GAP = 8;

const Thumbnail = z.object({ key: z.string(), width: z.number(), height: z.number() });

/** Checks which images are there, so that a missing one fails the flow before any work is done. */
export const listImages = defineTask({
  kind: "list",
  lane: LANE,
  input: z.object({ keys: z.array(z.string()).min(1) }),
  run: async ({ keys }) => {
    const sizes = await Promise.all(keys.map(async (key) => (await read(key)).length));
    return { images: keys.length, bytes: sizes.reduce((sum, size) => sum + size, 0) };
  },
});

/** Makes the thumbnail of one image. */
export const resizeImage = defineTask({
  kind: "resize",
  lane: LANE,
  timeout: "1m",
  retry: { attempts: 3, backoff: "exponential" },
  input: z.object({ key: z.string(), side: z.int().positive() }),
  run: async ({ key, side }, { logger }): Promise<z.infer<typeof Thumbnail>> => {
    const thumbnail = fitInto(original(key, await read(key)), side);
    const target = `thumbnails/${key}`;
    await write(target, encodePpm(thumbnail));
    logger.info("thumbnail written", { key: target });
    return { key: target, width: thumbnail.width, height: thumbnail.height };
  },
});

/** Puts all thumbnails on one page. It reads what the tasks before it returned. */
export const makeContactSheet = defineTask({
  kind: "contact-sheet",
  lane: LANE,
  timeout: "2m",
  input: z.object({ thumbnails: z.array(z.string()).min(1), side: z.int().positive(), target: z.string() }),
  run: async ({ thumbnails, side, target }, { upstream, progress }) => {
    const columns = Math.min(COLUMNS, thumbnails.length);
    const rows = Math.ceil(thumbnails.length / columns);
    const cell = side + GAP;
    const sheet = blank(columns * cell + GAP, rows * cell + GAP);
    for (const [at, task] of thumbnails.entries()) {
      const { key } = Thumbnail.parse(await upstream(task));
      const left = GAP + (at % columns) * cell;
      const top = GAP + Math.floor(at / columns) * cell;
      paste(sheet, decodePpm(await read(key)), left, top);
      await progress(Math.round((100 * (at + 1)) / thumbnails.length));
    }
    await write(target, encodePng(sheet));
    return { key: target, width: sheet.width, height: sheet.height };
  },
});

export const tasks = [listImages, resizeImage, makeContactSheet];

/** A damaged image stays damaged: another attempt does not help. */
function original(key: string, data: Uint8Array): Image {
  try {
    return decodePpm(data);
  } catch (error) {
    throw new NonRetryableError(`${key} cannot be read`, { cause: error });
  }
}
