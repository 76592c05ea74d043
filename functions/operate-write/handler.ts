/**
 * The function operate-write: `sluice --stage` invokes it for operations that change something, and for their previews.
 * `operate/remote/protocol.ts` documents its event and its answer.
 */

import { operateFunction } from "#operate/remote/function.ts";
import { FUNCTION_NAMES } from "#operate/remote/protocol.ts";
import { WRITE_OPERATIONS } from "#operate/write-operations.ts";

export const handler = operateFunction(FUNCTION_NAMES.write, WRITE_OPERATIONS);
