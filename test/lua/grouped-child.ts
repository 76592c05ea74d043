import type { EdgeGroupPolicy } from "#shared/contract/groups.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import type { TerminalOutcome } from "#shared/contract/record.ts";
import type { Edge } from "#shared/contract/submission.ts";
import type { FlowFixture } from "#test/support/flow-fixture.ts";

/** A now_ms that no clock shows, so that tests can tell whether it was used. */
export const NOW = 1_234_567_890_123;

export const ANY_OF = { variant: "any_of", onSatisfied: "let_run" } as const satisfies EdgeGroupPolicy;
export const TWO = { variant: "quorum", onSatisfied: "let_run", k: 2 } as const satisfies EdgeGroupPolicy;

/** A child and its upstreams. */
export interface GroupedChild {
  readonly child: ExecKeys;
  readonly upstreams: readonly ExecKeys[];
  readonly edges: readonly Edge[];
  edge(number: number): Edge;
  /** Resolves the edge at this position. Returns the fields of the reply. */
  resolve(edge: number, outcome: TerminalOutcome, nowMs?: number): Promise<readonly string[]>;
}

/** Creates a child of priority 3 with `count` upstreams and, if a policy is given, a group created at NOW. */
export async function groupedChild(
  fixture: FlowFixture,
  policy: EdgeGroupPolicy | undefined,
  size: number,
  dataPassingRef = "",
): Promise<GroupedChild> {
  const child = await fixture.member({ priority: 3 });
  if (policy) await fixture.group(child, policy, NOW);
  const upstreams: ExecKeys[] = [];
  const edges: Edge[] = [];
  for (let number = 0; number < size; number += 1) {
    const upstream = await fixture.member();
    upstreams.push(upstream);
    edges.push(await fixture.edge(upstream, child, dataPassingRef));
  }
  const edge = (number: number): Edge => {
    const found = edges[number];
    if (found === undefined) throw new RangeError(`no edge ${number}`);
    return found;
  };
  return {
    child,
    upstreams,
    edges,
    edge,
    resolve: (number, outcome, nowMs = NOW) => fixture.done(fixture.resolution(edge(number), outcome, nowMs)),
  };
}

export function groupOf(fixture: FlowFixture, child: ExecKeys): Promise<Record<string, string>> {
  return fixture.hash(fixture.flow.edgeGroup(child.id));
}
