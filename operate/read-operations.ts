import { audit } from "#operate/read/audit.ts";

/** Every operation that writes neither to Valkey nor to a queue. */
export const READ_OPERATIONS = [audit] as const;
