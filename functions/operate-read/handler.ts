/**
 * The function operate-read: `sluice --stage` invokes it for operations that only read. It contains no others, so no event
 * makes it change something. `operate/remote/protocol.ts` documents its event and its answer.
 */

import { READ_OPERATIONS } from "#operate/read-operations.ts";
import { operateFunction } from "#operate/remote/function.ts";
import { FUNCTION_NAMES } from "#operate/remote/protocol.ts";

export const handler = operateFunction(FUNCTION_NAMES.read, READ_OPERATIONS);
