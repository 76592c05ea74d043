/** The lanes that the deployment records as in use. */

import { type LaneId, parseLaneId } from "#shared/contract/ids.ts";
import { LANES_KEY } from "#shared/contract/keys.ts";
import { ProtocolError } from "#shared/errors.ts";
import type { CommandCaller } from "#shared/reconcile/lease.ts";

export interface RecordedLanes {
  readonly lanes: readonly LaneId[];
  /** One message for each recorded name that is not a valid lane. */
  readonly errors: readonly string[];
}

/** Reads the recorded lanes. Rejects with the error of the server or the client. */
export async function readRecordedLanes(valkey: CommandCaller): Promise<RecordedLanes> {
  const names = await valkey.call("smembers", LANES_KEY);
  if (!Array.isArray(names)) throw new ProtocolError(`SMEMBERS ${LANES_KEY} did not reply with an array`);
  const parsed = names.map(parseLaneId);
  return {
    lanes: parsed.flatMap((lane) => (lane.ok ? [lane.value] : [])),
    errors: parsed.flatMap((lane) => (lane.ok ? [] : [lane.error.message])),
  };
}
