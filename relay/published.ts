import type { Completion } from "#shared/contract/message.ts";
import { parseCompletionEvent, parseJsonObject } from "#shared/contract/message.ts";

const SKIPPED = "skipped";
/** An outcome is only informative. Other text is omitted: SQS may refuse it, and the relay retries without limit. */
const OUTCOME = /^[a-z_]{1,32}$/;

/** A parsed message of the completions channel. */
export type Published =
  | { readonly kind: "completion"; readonly completion: Completion }
  /** The dispatcher sends the completion of a skipped execution itself, with the cascade's depth and root. */
  | { readonly kind: "skipped" }
  | { readonly kind: "without_flow" }
  | { readonly kind: "malformed"; readonly reason: string };

/** Parses a published event: the body of a queue message without attributes (contract, section 8). */
export function readPublished(text: string): Published {
  const event = parseCompletionEvent({ body: text, messageAttributes: {} });
  if (!event.ok) return { kind: "malformed", reason: event.error.message };
  const { executionId, flowId, depth, root } = event.value;
  if (flowId === undefined) return { kind: "without_flow" };
  const outcome = parseJsonObject(text)?.outcome;
  if (outcome === SKIPPED) return { kind: "skipped" };
  return {
    kind: "completion",
    completion: {
      executionId,
      flowId,
      outcome: typeof outcome === "string" && OUTCOME.test(outcome) ? outcome : "",
      depth,
      root,
    },
  };
}
