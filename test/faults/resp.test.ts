import { expect, it } from "vitest";
import { stepOf } from "#test/faults/steps.ts";
import { RespStream } from "#test/support/resp.ts";

const VALUES = [
  "*2\r\n$3\r\nGET\r\n$2\r\na\n\r\n",
  "+OK\r\n",
  "-ERR no\r\n",
  ":42\r\n",
  "$-1\r\n",
  "*-1\r\n",
  "*0\r\n",
  "$4\r\n\r\n\r\n\r\n",
  "*3\r\n*1\r\n:1\r\n$2\r\n\u00e9\r\n*2\r\n+a\r\n*1\r\n$0\r\n\r\n",
];

function valuesOf(stream: RespStream): string[] {
  const values: string[] = [];
  for (let frame = stream.next(); frame !== undefined; frame = stream.next())
    values.push(frame.bytes.toString());
  return values;
}

it("splits a stream into its values, wherever the chunks are cut", () => {
  const bytes = Buffer.from(VALUES.join(""));
  for (let cut = 0; cut <= bytes.length; cut += 1) {
    const stream = new RespStream();
    stream.push(bytes.subarray(0, cut));
    const first = valuesOf(stream);
    stream.push(bytes.subarray(cut));
    expect([...first, ...valuesOf(stream)]).toEqual(VALUES);
    expect(stream.rest()).toHaveLength(0);
  }
});

it("reads the words of a command and keeps an incomplete one", () => {
  const stream = new RespStream();
  stream.push(Buffer.from("*2\r\n$4\r\nHGET\r\n$1\r\nk\r\n*1\r\n$4\r\nPI"));
  expect(stream.next()?.words).toEqual(["HGET", "k"]);
  expect(stream.next()).toBeUndefined();
  expect(stream.rest().toString()).toBe("*1\r\n$4\r\nPI");
});

it.each([
  [["hget", "ff:config:partitions", "num_flow_partitions"], "start"],
  [["FCALL", "ff_version", "0"], "start"],
  [["hmget", "k:core", "lifecycle_phase", "terminal_outcome", "completed_at"], "records"],
  [["smembers", "k:out"], "records"],
  [["hget", "k:edge", "downstream_execution_id"], "edges"],
  [["hmget", "k:core", "lane_id"], "children"],
  [["mget", "k:cascade"], "children"],
  [["fcall", "ff_resolve_dependency", "11"], "resolve"],
  [["set", "k:cascade", "1", "EX", "9"], "mark"],
  [["set", "k:fan_out", "1"], undefined],
  [["fcall", "ff_claim_execution", "14"], undefined],
  [["info"], undefined],
  [[], undefined],
])("assigns %j to the step %s", (words, step) => {
  expect(stepOf(words)).toBe(step);
});
