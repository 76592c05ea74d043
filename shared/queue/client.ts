import { SQSClient } from "@aws-sdk/client-sqs";

const CONNECTION_TIMEOUT_MS = 2_000;

/**
 * A client of SQS for a function: region, credentials and endpoint come from the AWS SDK's own variables. A request
 * that is not answered in time fails, and is the SDK's to retry; by default it would wait for ever.
 */
export function queueClient(requestTimeoutMs = 5_000): SQSClient {
  return new SQSClient({
    requestHandler: {
      connectionTimeout: CONNECTION_TIMEOUT_MS,
      requestTimeout: requestTimeoutMs,
      throwOnRequestTimeout: true,
    },
  });
}
