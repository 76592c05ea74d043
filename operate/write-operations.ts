import { cancel } from "#operate/write/cancel.ts";
import { purgeDeadLetters, replayDeadLetters } from "#operate/write/dead-letters.ts";
import { complete, fail } from "#operate/write/end.ts";
import { pauseLanes, resumeLanes } from "#operate/write/pause-lanes.ts";
import { prioritize } from "#operate/write/prioritize.ts";
import { publish } from "#operate/write/publish.ts";
import { reconcile } from "#operate/write/reconcile.ts";
import { release } from "#operate/write/release.ts";
import { replay } from "#operate/write/replay.ts";
import { submit } from "#operate/write/submit.ts";

/** Every operation that changes state. */
export const WRITE_OPERATIONS = [
  submit,
  pauseLanes,
  resumeLanes,
  complete,
  fail,
  cancel,
  replay,
  release,
  publish,
  prioritize,
  replayDeadLetters,
  purgeDeadLetters,
  reconcile,
] as const;
