import type { FaultKind } from "#test/faults/case.ts";
import { cancel } from "#test/faults/kinds/cancel.ts";
import { clock } from "#test/faults/kinds/clock.ts";
import { duplicates } from "#test/faults/kinds/duplicates.ts";
import { failover } from "#test/faults/kinds/failover.ts";
import { flush } from "#test/faults/kinds/flush.ts";
import { frozen } from "#test/faults/kinds/frozen.ts";
import { kill } from "#test/faults/kinds/kill.ts";
import { kit } from "#test/faults/kinds/kit.ts";
import { lateEdge } from "#test/faults/kinds/late-edge.ts";
import { malformed } from "#test/faults/kinds/malformed.ts";
import { outage } from "#test/faults/kinds/outage.ts";
import { overlap } from "#test/faults/kinds/overlap.ts";
import { overtaken } from "#test/faults/kinds/overtaken.ts";
import { pause } from "#test/faults/kinds/pause.ts";
import { queue } from "#test/faults/kinds/queue.ts";
import { reclaimers } from "#test/faults/kinds/reclaimers.ts";
import { replay } from "#test/faults/kinds/replay.ts";
import { resharding } from "#test/faults/kinds/resharding.ts";
import { restart } from "#test/faults/kinds/restart.ts";
import { silence } from "#test/faults/kinds/silence.ts";
import { soak } from "#test/faults/kinds/soak.ts";
import { sweeps } from "#test/faults/kinds/sweeps.ts";
import { unsent } from "#test/faults/kinds/unsent.ts";
import { visibility } from "#test/faults/kinds/visibility.ts";
import { wide } from "#test/faults/kinds/wide.ts";
import { worker } from "#test/faults/kinds/worker.ts";

/** Every kind of fault. The slowest kinds come first, so that they do not run alone at the end. */
export const KINDS: readonly FaultKind[] = [
  wide,
  pause,
  kill,
  kit,
  soak,
  worker,
  outage,
  failover,
  silence,
  queue,
  restart,
  resharding,
  flush,
  visibility,
  duplicates,
  clock,
  sweeps,
  frozen,
  reclaimers,
  cancel,
  overlap,
  malformed,
  replay,
  overtaken,
  lateEdge,
  unsent,
];
