/**
 * The part of the AWS SDK that sends, counts, delays and deletes messages. Imported dynamically, so that it is loaded with the first
 * request.
 */

export {
  ChangeMessageVisibilityBatchCommand,
  DeleteMessageBatchCommand,
  GetQueueAttributesCommand,
  ReceiveMessageCommand,
  SendMessageBatchCommand,
  SQSClient,
} from "@aws-sdk/client-sqs";
