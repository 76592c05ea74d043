import { audit } from "#operate/read/audit.ts";
import { listDeadLetters, showDeadLetter } from "#operate/read/dead-letters.ts";
import { doctor } from "#operate/read/doctor.ts";
import { execution } from "#operate/read/execution.ts";
import { explain } from "#operate/read/explain.ts";
import { flows } from "#operate/read/flows.ts";
import { graph } from "#operate/read/graph.ts";
import { lanes } from "#operate/read/lanes.ts";
import { queues } from "#operate/read/queues.ts";
import { status } from "#operate/read/status.ts";

/** Every operation that writes neither to Valkey nor to a queue. */
export const READ_OPERATIONS = [
  audit,
  doctor,
  execution,
  explain,
  flows,
  graph,
  lanes,
  queues,
  status,
  listDeadLetters,
  showDeadLetter,
] as const;
