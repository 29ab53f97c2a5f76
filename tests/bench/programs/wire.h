/* wire.h - what the synthetic engine and the load generator agree on.
 *
 * Both build the texts of answers with the same functions, so the load generator knows every byte
 * that must arrive. Answers depend on the request (its seed, length and byte sum), so an answer
 * that was cached, swapped with another caller's, or made from an altered request is noticed.
 */
#ifndef WIRE_H
#define WIRE_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

typedef uint64_t u64;

#define FNV_BASIS 14695981039346656037ull /* FNV-1a, 64 bits */
#define FNV_PRIME 1099511628211ull
#define PATTERN_LETTERS 26
#define PAD "the quick brown fox jumps"
#define DONE_EVENT "data: [DONE]\n\n"

static inline u64 now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * 1000000000ull + (u64)t.tv_nsec;
}

static inline u64 fnv1a(u64 hash, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ (unsigned char)bytes[i]) * FNV_PRIME;
    return hash;
}

static inline u64 byte_sum(const char *bytes, size_t n)
{
    u64 sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (unsigned char)bytes[i];
    return sum;
}

/* Byte i of every large body: a part that is lost, doubled or moved breaks the sequence. */
static inline void fill_pattern(char *to, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = (char)('A' + i % PATTERN_LETTERS);
}

/* A chat completion of 450 to 750 bytes; `pattern` holds at least 512 bytes of the pattern. */
static inline int chat_answer(char *to, size_t room, const char *pattern, u64 seed, u64 length,
                              u64 sum)
{
    return snprintf(
        to, room,
        "{\"id\":\"chatcmpl-%016" PRIx64 "\",\"object\":\"chat.completion\",\"created\":1748736000,"
        "\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
        "\"content\":\"%.*s\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":16,\"total_tokens\":80,\"completion_tokens\":64},"
        "\"system_fingerprint\":\"%" PRIu64 "-%" PRIu64 "\"}",
        seed, (int)(150 + length % 300), pattern, length, sum);
}

/* An embedding whose numbers are the request body's length and byte sum. */
static inline int embedding_answer(char *to, size_t room, u64 length, u64 sum)
{
    return snprintf(to, room,
                    "{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,"
                    "\"embedding\":[%" PRIu64 ",%" PRIu64 "]}],\"model\":\"m\","
                    "\"usage\":{\"prompt_tokens\":1,\"total_tokens\":1}}",
                    length, sum);
}

static inline int event(char *to, size_t room, u64 seed, const char *content, const char *reason)
{
    return snprintf(to, room,
                    "data: {\"id\":\"chatcmpl-%016" PRIx64 "\","
                    "\"object\":\"chat.completion.chunk\",\"created\":1748736000,"
                    "\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%s\"},"
                    "\"logprobs\":null,\"finish_reason\":%s}]}\n\n",
                    seed, content, reason);
}

/* One token: when it was sent (CLOCK_MONOTONIC, ns) and its number, from 0. */
static inline int token_event(char *to, size_t room, u64 seed, u64 sent_ns, u64 number)
{
    char content[80];
    snprintf(content, sizeof content, "T=%019" PRIu64 ";%06" PRIu64 "; " PAD, sent_ns, number);
    return event(to, room, seed, content, "null");
}

/* The last event but DONE_EVENT: the hash of all token events before it. */
static inline int hash_event(char *to, size_t room, u64 seed, u64 hash)
{
    char content[40];
    snprintf(content, sizeof content, "H=%016" PRIx64, hash);
    return event(to, room, seed, content, "\"stop\"");
}

/* Return the value of a header, or NULL.
 *
 * line: the '\n' that ends the request or status line; end: where the head's blank line begins;
 * name: "\nname:" in lower case. */
static inline const char *header(const char *line, const char *end, const char *name)
{
    size_t n = strlen(name);
    while (line && line + n < end) {
        if (strncasecmp(line, name, n) == 0) {
            line += n;
            while (*line == ' ' || *line == '\t')
                line++;
            return line;
        }
        line = memchr(line + 1, '\n', (size_t)(end - line - 1));
    }
    return NULL;
}

static inline int is_token(const char *value, const char *token)
{
    return value && strncasecmp(value, token, strlen(token)) == 0;
}

#endif
