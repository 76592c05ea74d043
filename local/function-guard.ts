/** Loaded into a function's process before AWS's runtime client, which knows nothing of a parent. */

// Whoever asked is gone: nobody would ever end this process.
process.on("disconnect", () => process.exit(0));
// As in Lambda, a function that awaits what can never come ends with its process, and not by its timeout.
process.channel?.unref();
