import { SQSClient } from "@aws-sdk/client-sqs";
import type { Environment } from "#shared/runtime/environment.ts";

/**
 * The process' AWS credentials under the names that Lambda gives them. A container finds its own at an address and
 * not in its environment; the SDK knows where, and asks again before they run out.
 */
export function awsCredentials(): () => Promise<Environment> {
  const { credentials } = new SQSClient().config;
  return async () => {
    const { accessKeyId, secretAccessKey, sessionToken } = await credentials();
    return {
      AWS_ACCESS_KEY_ID: accessKeyId,
      AWS_SECRET_ACCESS_KEY: secretAccessKey,
      AWS_SESSION_TOKEN: sessionToken,
    };
  };
}
