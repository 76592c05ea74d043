import { submit } from "#operate/write/submit.ts";

/** Every operation that changes state. */
export const WRITE_OPERATIONS = [submit] as const;
