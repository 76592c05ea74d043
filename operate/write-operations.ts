import { pauseLanes, resumeLanes } from "#operate/write/pause-lanes.ts";
import { submit } from "#operate/write/submit.ts";

/** Every operation that changes state. */
export const WRITE_OPERATIONS = [submit, pauseLanes, resumeLanes] as const;
