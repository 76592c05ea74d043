import { audit } from "#operate/read/audit.ts";
import { execution } from "#operate/read/execution.ts";
import { graph } from "#operate/read/graph.ts";

/** Every operation that writes neither to Valkey nor to a queue. */
export const READ_OPERATIONS = [audit, execution, graph] as const;
