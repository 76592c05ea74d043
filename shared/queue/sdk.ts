/** What of the AWS SDK sends messages: loaded with the first one, and with nothing else of the SDK. */

export { SendMessageBatchCommand, SQSClient } from "@aws-sdk/client-sqs";
