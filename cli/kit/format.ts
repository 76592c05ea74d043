/** Texts for a person. */

export { duration, plural, time } from "#operate/words.ts";
