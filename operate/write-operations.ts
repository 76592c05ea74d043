import { complete, fail } from "#operate/write/end.ts";
import { pauseLanes, resumeLanes } from "#operate/write/pause-lanes.ts";
import { replay } from "#operate/write/replay.ts";
import { submit } from "#operate/write/submit.ts";

/** Every operation that changes state. */
export const WRITE_OPERATIONS = [submit, pauseLanes, resumeLanes, complete, fail, replay] as const;
