// Reads a configuration of one whole number.

const SPACE = " \t\r\n";

/** A number, or the sentence that says what is wrong. */
export class Setting {
  constructor(
    public value: u32,
    public refusal: string = "",
  ) {}
}

class Reader {
  at: i32 = 0;

  constructor(public text: string) {}

  get next(): string {
    return this.text.charAt(this.at);
  }

  skipSpace(): void {
    while (this.next != "" && SPACE.includes(this.next)) this.at++;
  }

  take(expected: string): bool {
    this.skipSpace();
    if (this.next != expected) return false;
    this.at++;
    this.skipSpace();
    return true;
  }

  /** What stands before the first of these characters. */
  until(ends: string): string {
    const start = this.at;
    while (this.next != "" && !ends.includes(this.next)) this.at++;
    return this.text.slice(start, this.at);
  }
}

function isDigits(text: string): bool {
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code < 48 || code > 57) return false;
  }
  return text.length > 0 && text.length < 11;
}

/** The object's field of this name, or `otherwise`. All but an object of this field with a whole number in range is refused. */
export function readInteger(config: string, name: string, least: u32, most: u32, otherwise: u32): Setting {
  const shape = new Setting(0, `the configuration must be an object of whole numbers, like {"${name}": ${otherwise}}`);
  const reader = new Reader(config);
  let value = otherwise;
  if (!reader.take("{")) return shape;
  let more = reader.next != "}";
  while (more) {
    if (!reader.take('"')) return shape;
    const field = reader.until('"');
    if (!reader.take('"') || !reader.take(":")) return shape;
    if (field != name) return new Setting(0, `unknown field \`${field.slice(0, 60)}\`; there is \`${name}\``);
    const shown = reader.until(",}").trimEnd();
    const number = isDigits(shown) ? U64.parseInt(shown) : 0;
    if (reader.next == "" || number < least || number > most) {
      return new Setting(0, `\`${name}\` must be a whole number from ${least} to ${most}, not ${shown.slice(0, 40)}`);
    }
    value = <u32>number;
    more = reader.take(",");
  }
  return reader.take("}") && reader.next == "" ? new Setting(value) : shape;
}
