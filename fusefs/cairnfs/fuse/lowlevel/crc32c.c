/*
 * CRC-32C (RFC 3720, appendix B.4), the checksum of every 64 KiB of a chunk.
 *
 * With the processor's instruction three lanes run at once, because it has a latency of three cycles; the
 * lanes are joined by a table that moves a checksum over the bytes of one. Without it, eight tables.
 */
#define LANE_BYTES 5456  /* three times that, four times, are 64 KiB but for 64 bytes */

static struct {
    uint32_t of_byte[8][256];  /* a byte, and so many zeros behind it */
    uint32_t over_lane[4][256];
    bool instruction;
} crc;

static uint32_t crc_zeros(uint32_t value, size_t count)
{
    while (count--)
        value = value >> 8 ^ crc.of_byte[0][value & 0xFF];
    return value;
}

__attribute__((constructor)) static void crc_prepare(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t value = byte;

        for (int bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (value & 1 ? 0x82F63B78u : 0);
        crc.of_byte[0][byte] = value;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (int zeros = 1; zeros < 8; zeros++)
            crc.of_byte[zeros][byte] = crc_zeros(crc.of_byte[zeros - 1][byte], 1);
    for (int bit = 0; bit < 32; bit++) {
        uint32_t moved = crc_zeros(1u << bit, LANE_BYTES);

        for (uint32_t byte = 0; byte < 256; byte++)
            if (byte >> bit % 8 & 1)
                crc.over_lane[bit / 8][byte] ^= moved;
    }
#ifdef __x86_64__
    crc.instruction = __builtin_cpu_supports("sse4.2");
#endif
}

static uint64_t word_at(const unsigned char *data)
{
    uint64_t word;

    memcpy(&word, data, sizeof(word));
    return word;
}

static uint32_t crc_by_tables(uint32_t value, const unsigned char *data, size_t size)
{
    for (; size >= 8; data += 8, size -= 8) {
        uint64_t word = word_at(data) ^ value;

        value = 0;
        for (int at = 0; at < 8; at++)
            value ^= crc.of_byte[7 - at][word >> 8 * at & 0xFF];
    }
    while (size--)
        value = value >> 8 ^ crc.of_byte[0][(value ^ *data++) & 0xFF];
    return value;
}

#ifdef __x86_64__
static uint32_t over_lane(uint32_t value)
{
    return crc.over_lane[0][value & 0xFF] ^ crc.over_lane[1][value >> 8 & 0xFF]
        ^ crc.over_lane[2][value >> 16 & 0xFF] ^ crc.over_lane[3][value >> 24];
}

__attribute__((target("sse4.2")))
static uint32_t crc_by_instruction(uint32_t value, const unsigned char *data, size_t size)
{
    for (; size >= 3 * LANE_BYTES; data += 3 * LANE_BYTES, size -= 3 * LANE_BYTES) {
        uint64_t first = value, second = 0, third = 0;

        for (size_t at = 0; at < LANE_BYTES; at += 8) {
            first = __builtin_ia32_crc32di(first, word_at(data + at));
            second = __builtin_ia32_crc32di(second, word_at(data + LANE_BYTES + at));
            third = __builtin_ia32_crc32di(third, word_at(data + 2 * LANE_BYTES + at));
        }
        value = over_lane(over_lane(first) ^ second) ^ third;
    }
    for (; size >= 8; data += 8, size -= 8)
        value = __builtin_ia32_crc32di(value, word_at(data));
    while (size--)
        value = __builtin_ia32_crc32qi(value, *data++);
    return value;
}
#endif

uint32_t cairn_crc32c(const void *data, size_t size)
{
#ifdef __x86_64__
    if (crc.instruction)
        return ~crc_by_instruction(~0u, data, size);
#endif
    return ~crc_by_tables(~0u, data, size);
}
