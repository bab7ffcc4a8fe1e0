// Reads a configuration of one whole number: the object's field of this name, or `otherwise`. What it throws is the
// sentence that says what is wrong; an exported function that throws a string answers an error.
export function readInteger(config, name, least, most, otherwise) {
  let fields;
  try {
    fields = JSON.parse(config);
  } catch {
    fields = null;
  }
  if (typeof fields !== "object" || fields === null || Array.isArray(fields)) {
    throw `the configuration must be an object like {"${name}": ${otherwise}}`;
  }
  for (const field of Object.keys(fields)) {
    if (field !== name) throw `unknown field \`${field.slice(0, 60)}\`; there is \`${name}\``;
  }
  const value = Object.hasOwn(fields, name) ? fields[name] : otherwise;
  if (!Number.isInteger(value) || value < least || value > most) {
    throw `\`${name}\` must be a whole number from ${least} to ${most}, not ${JSON.stringify(value).slice(0, 40)}`;
  }
  return value;
}

// The engine hands over a u32 from 2^31 on as a negative number; this is the number that was meant.
export const unsigned = (number) => number >>> 0;
