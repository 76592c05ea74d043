/**
 * The part of the AWS SDK that sends messages and counts them. Imported dynamically, so that it is loaded with the first
 * request.
 */

export { GetQueueAttributesCommand, SendMessageBatchCommand, SQSClient } from "@aws-sdk/client-sqs";
