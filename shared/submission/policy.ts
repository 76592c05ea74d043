import * as z from "zod/mini";
import { parseJson } from "#shared/submission/json-text.ts";
import type { RetryPolicy } from "#shared/submission/workflow.ts";

const policy = z.looseObject({ retry_policy: z.looseObject({}) });

/**
 * An execution's policy as the record keeps it: the retry policy under `retry_policy`, in the shape that
 * `ff_fail_execution` takes (contract, section 6). Empty without a retry policy.
 */
export function policyJson(retryPolicy: RetryPolicy | undefined): string {
  if (retryPolicy === undefined) return "";
  const { maxRetries, backoff } = retryPolicy;
  return JSON.stringify({
    retry_policy: {
      max_retries: maxRetries,
      backoff:
        backoff.type === "fixed"
          ? { type: backoff.type, delay_ms: backoff.delayMs }
          : {
              type: backoff.type,
              initial_delay_ms: backoff.initialDelayMs,
              max_delay_ms: backoff.maxDelayMs,
              multiplier: backoff.multiplier,
            },
    },
  });
}

/**
 * The retry policy of a record's policy, as JSON for `ff_fail_execution`; empty where the policy has none.
 * Another submitter's policy may have any shape: whatever has no object under `retry_policy` has none.
 */
export function retryPolicyJson(policyText: string): string {
  const json = parseJson(policyText);
  const parsed = policy.safeParse(json.ok ? json.value : undefined);
  return parsed.success ? JSON.stringify(parsed.data.retry_policy) : "";
}
