import { SQSClient } from "@aws-sdk/client-sqs";
import type { Environment } from "#shared/runtime/environment.ts";

/**
 * The AWS credentials of the process, under the names of Lambda's environment variables. A container gets them from an
 * HTTP endpoint: the SDK finds it, and refreshes the credentials before they expire.
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
