/** The slot of the flow moves to another primary during a dispatch: at once, or half of its keys first. */

import { type FaultKind, runToEnd, runToEndWithFault } from "#test/faults/case.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { ClusterServers } from "#test/faults/servers.ts";
import { VALKEY_POINTS } from "#test/faults/steps.ts";
import { TestBed } from "#test/faults/test-bed.ts";

const MIGRATE_TIMEOUT_MS = 5_000;

export const resharding: FaultKind = {
  name: "resharding",
  cases: { full: 40, quick: 6 },
  startTestBed: async () => TestBed.start(await ClusterServers.start(0)),
  run: async (context) => {
    const { bed, random } = context;
    const { servers } = bed;
    if (!(servers instanceof ClusterServers)) throw new TypeError("this kind needs a cluster");
    const flow = await FlowUnderTest.build(bed, random, randomGraph(random));
    const move = await Move.of(servers, flow.flowKeys.core);
    const isInHalves = context.number % 2 === 1;
    bed.note(isInHalves ? "half of the slot moves first" : "the whole slot moves");
    await runToEndWithFault(context, flow, {
      points: VALKEY_POINTS,
      times: 1,
      inject: async () => {
        await move.begin();
        if (isInHalves) await move.migrate((keys) => random.shuffled(keys).slice(0, keys.length / 2));
        else await move.finish();
        return "pass";
      },
      afterwards: async () => {
        // The keys are on two nodes: a delivery may fail now, but must not change anything wrongly.
        for (let left = isInHalves ? random.between(1, 3) : 0; left > 0; left -= 1) {
          const records = await bed.receive(random.between(1, 4));
          if (records.length > 0) await bed.deliver(records);
        }
        if (isInHalves) await move.finish();
        bed.reconnect();
      },
    });
    await runToEnd(context, flow);
    return flow.compareWithModel();
  },
};

/** The move of a slot from one primary to the next. */
class Move {
  readonly #servers: ClusterServers;
  readonly #slot: number;
  readonly #from: number;
  readonly #to: number;

  private constructor(servers: ClusterServers, slot: number, from: number) {
    this.#servers = servers;
    this.#slot = slot;
    this.#from = from;
    this.#to = (from + 1) % servers.ports.length;
  }

  static async of(servers: ClusterServers, key: string): Promise<Move> {
    const slot = Number(await servers.ask(0, "CLUSTER", "KEYSLOT", key));
    for (const node of servers.ports.keys()) {
      if (Number(await servers.ask(node, "CLUSTER", "COUNTKEYSINSLOT", slot)) > 0) {
        return new Move(servers, slot, node);
      }
    }
    throw new Error(`no node has keys of slot ${slot}`);
  }

  async begin(): Promise<void> {
    const [from, to] = await Promise.all([this.#idOf(this.#from), this.#idOf(this.#to)]);
    await this.#servers.ask(this.#to, "CLUSTER", "SETSLOT", this.#slot, "IMPORTING", from);
    await this.#servers.ask(this.#from, "CLUSTER", "SETSLOT", this.#slot, "MIGRATING", to);
  }

  async migrate(choose: (keys: string[]) => readonly string[] = (keys) => keys): Promise<void> {
    const found = await this.#servers.ask(this.#from, "CLUSTER", "GETKEYSINSLOT", this.#slot, 100_000);
    const keys = choose(Array.isArray(found) ? found.map(String) : []);
    if (keys.length === 0) return;
    const port = this.#servers.ports[this.#to] ?? 0;
    const destination = ["127.0.0.1", port, "", 0, MIGRATE_TIMEOUT_MS];
    await this.#servers.ask(this.#from, "MIGRATE", ...destination, "KEYS", ...keys);
  }

  /** Moves the remaining keys and assigns the slot to its new owner. */
  async finish(): Promise<void> {
    await this.migrate();
    const owner = await this.#idOf(this.#to);
    for (const node of [this.#to, this.#from, ...this.#servers.ports.keys()]) {
      await this.#servers.ask(node, "CLUSTER", "SETSLOT", this.#slot, "NODE", owner);
    }
  }

  async #idOf(node: number): Promise<string> {
    return String(await this.#servers.ask(node, "CLUSTER", "MYID"));
  }
}
