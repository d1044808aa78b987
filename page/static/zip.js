// Packs files into a ZIP archive without compressing them, as PNG files are compressed already.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** Write numbers, each [value, bytes], as a record does. */
function record(...numbers) {
  const view = new DataView(new ArrayBuffer(numbers.reduce((sum, [, size]) => sum + size, 0)));
  let at = 0;
  for (const [value, size] of numbers) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return new Uint8Array(view.buffer);
}

/** Pack [name, Blob] pairs; the format is that of PKWARE's APPNOTE.TXT, 4.3. */
export async function zip(files) {
  const [parts, directory] = [[], []];
  let offset = 0;
  for (const [name, blob] of files) {
    const bytes = new Uint8Array(await blob.arrayBuffer());
    const title = new TextEncoder().encode(name);
    // Version 2.0, names in UTF-8 (bit 11), stored, 1980-01-01.
    const shared = [[20, 2], [0x800, 2], [0, 2], [0, 2], [33, 2], [crc32(bytes), 4], [bytes.length, 4],
      [bytes.length, 4], [title.length, 2], [0, 2]];
    const head = record([0x04034b50, 4], ...shared);
    parts.push(head, title, bytes);
    const place = [[0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]];
    directory.push(record([0x02014b50, 4], [20, 2], ...shared, ...place), title);
    offset += head.length + title.length + bytes.length;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const count = [files.length, 2];
  const end = record([0x06054b50, 4], [0, 2], [0, 2], count, count, [size, 4], [offset, 4], [0, 2]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}
