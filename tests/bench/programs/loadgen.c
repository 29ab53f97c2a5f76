/* loadgen.c - a load generator for OpenAI-style proxies in front of engine.c; one thread, epoll.
 *
 * Closed loop: each connection sends a request, reads the whole answer, checks it, sends the next.
 * Every answer is checked: its status and framing, every byte of it, and that it is the answer to
 * this request, as it was sent. Less for proxies of which less can be said: --check answer for
 * those that write requests anew, --check text (the text, its order, its end) for those that write
 * answers anew too. At the first that is wrong, cut off or late, nothing is measured: the one line
 * of JSON is {"refused": why} and the exit status is 3. Otherwise it holds the figures; times are
 * in microseconds, delays one-way, from the engine's write(2) to our read(2).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire.h"

#define REFUSED 3
#define EVENTS 512
#define READ_BYTES (1 << 18)
#define HEAD_MAX 65536
#define PATIENCE_NS 15000000000ull /* for answers under way when the time is up */
#define GONE_NS 4000000000ull      /* for the engine to see that a caller has left */
#define FIRST_SEED ((u64)1000000000) /* ten digits: a length does not depend on it */

enum mode { CHAT, SSE, UPLOAD, DOWNLOAD, GONE };
static const char *const modes[] = {"json", "sse", "upload", "download", "gone", NULL};

/* What a proxy may change: nothing; the request's spelling; the answer's too. */
enum check { BYTES, ANSWER, TEXT };
static const char *const checks[] = {"bytes", "answer", "text", NULL};

static struct {
    enum mode mode;
    int port, engine_port, connections, ramp_ms, trials, after_ms, stream;
    enum check check;
    double seconds, warmup;
    u64 tokens, body_bytes, big_bytes;
    const char *path;
    char headers[2048];
} asked = {.connections = 1,
           .trials = 5,
           .after_ms = 100,
           .seconds = 3,
           .warmup = 0.3,
           .tokens = 128,
           .body_bytes = 1 << 20,
           .big_bytes = 8u << 20,
           .path = "/v1/chat/completions"};

/* Bodies differ in length from request to request, so that no proxy gains by remembering one. */
static const int words_of_prompt[] = {8, 40, 3, 17, 64, 11, 28, 5};
#define VARIANTS (int)(sizeof words_of_prompt / sizeof *words_of_prompt)

struct request {
    char *bytes;
    size_t n;
    size_t seed_at;    /* where its ten digits are; 0: it has no seed */
    u64 length, sum;   /* of its body; the sum without the seed's digits */
};
static struct request requests[VARIANTS];
static int variants;

struct samples {
    float *values;
    size_t n, room;
};
static struct samples latency, first_byte, delay, gap;
static struct {
    u64 answers, timed, chunks, timed_chunks, reads, reconnects, body_bytes;
} counted;

enum state { IDLE, CONNECTING, SENDING, READ_HEAD, READ_BODY };
enum framing { SIZED, CHUNKED, UNTIL_CLOSE };
enum part { SIZE_LINE, DATA, AFTER_DATA, TRAILER };

struct conn {
    int fd;
    enum state state;
    const struct request *request;
    char *own;          /* this connection's copy of the request, with its seed */
    const char *out;
    size_t sent;
    u64 seed, sum, start_at, began, last_chunk;
    char *in;           /* the head, then what of the body is looked at as a whole */
    size_t n, room;
    enum framing framing;
    enum part part;
    u64 left, got;      /* of the chunk or the sized body; of the body so far */
    char line[24];
    size_t line_len;
    int keep, used, done;
    u64 number, hash;   /* of the stream's events */
};

static int poller;
static struct conn *conns;
static u64 begin_ns, warm_ns, end_ns, last_ns, begun, running;
static char pattern[PATTERN_LETTERS * 4096];

/* Say why there are no figures, and end. */
static _Noreturn __attribute__((format(printf, 1, 2))) void refuse(const char *why, ...)
{
    char text[400];
    va_list words;
    va_start(words, why);
    vsnprintf(text, sizeof text, why, words);
    va_end(words);
    for (char *p = text; *p; p++)
        if (*p == '"' || *p == '\\' || (unsigned char)*p < ' ' || (unsigned char)*p > '~')
            *p = '.';
    printf("{\"refused\":\"%s\",\"answers\":%" PRIu64 "}\n", text, counted.answers);
    exit(REFUSED);
}

static void *grown(void *memory, size_t bytes)
{
    void *found = realloc(memory, bytes);
    if (!found)
        refuse("no memory");
    return found;
}

static void add(struct samples *to, double value)
{
    if (to->n == to->room) {
        to->room = to->room ? 2 * to->room : 4096;
        to->values = grown(to->values, to->room * sizeof *to->values);
    }
    to->values[to->n++] = (float)value;
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* `of` must be sorted; -1: it is empty. */
static double percentile(const struct samples *of, int percent)
{
    if (!of->n)
        return -1;
    size_t i = of->n * (size_t)percent / 100;
    return of->values[i < of->n ? i : of->n - 1];
}

/* ---- requests ---- */

static size_t chat_body(char *to, int words)
{
    static const char *const story[] = {"Tell", "me", "a", "short", "story", "about",
                                        "a",    "fox", "and", "its", "friends", "please"};
    const int known = sizeof story / sizeof *story;
    char *p = to;
    p += sprintf(p, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"");
    for (int i = 0; i < words; i++)
        p += sprintf(p, "%s%s", i ? " " : "", story[i % known]);
    p += sprintf(p, "\"}],\"max_tokens\":128,\"temperature\":0");
    if (asked.mode == SSE || (asked.mode == GONE && asked.stream))
        p += sprintf(p, ",\"stream\":true");
    if (asked.mode == DOWNLOAD)
        p += sprintf(p, ",\"user\":\"big\"");
    p += sprintf(p, ",\"seed\":%" PRIu64 "}", FIRST_SEED);
    return (size_t)(p - to);
}

static size_t upload_body(char *to)
{
    size_t n = (size_t)sprintf(to, "{\"model\":\"m\",\"input\":\"");
    for (; n < asked.body_bytes - 2; n++)
        to[n] = (char)('a' + n % PATTERN_LETTERS);
    return n + (size_t)sprintf(to + n, "\"}");
}

static void build(struct request *r, int words)
{
    char *body = grown(NULL, asked.body_bytes + 8192);
    size_t n = asked.mode == UPLOAD ? upload_body(body) : chat_body(body, words);
    r->bytes = grown(NULL, n + sizeof asked.headers + 1024);
    int head = sprintf(r->bytes,
                       "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: */*\r\n"
                       "User-Agent: loadgen\r\nContent-Type: application/json\r\n%s"
                       "Content-Length: %zu\r\n\r\n",
                       asked.path, asked.port, asked.headers, n);
    memcpy(r->bytes + head, body, n + 1);
    r->n = (size_t)head + n;
    r->length = n;
    r->sum = byte_sum(body, n);
    if (asked.mode != UPLOAD) {
        r->seed_at = r->n - 11; /* ten digits and the closing brace */
        r->sum -= byte_sum(r->bytes + r->seed_at, 10);
    }
    free(body);
}

/* Take the next request as this connection's, with a seed that no other request has. */
static void prepare(struct conn *c)
{
    c->request = &requests[begun % (u64)variants];
    c->out = c->request->bytes;
    if (!c->request->seed_at)
        return;
    c->seed = FIRST_SEED + begun;
    memcpy(c->own, c->request->bytes, c->request->n);
    char *digit = c->own + c->request->seed_at + 10;
    c->sum = c->request->sum;
    for (u64 left = c->seed; left; left /= 10) {
        *--digit = (char)('0' + left % 10);
        c->sum += (unsigned char)*digit;
    }
    c->out = c->own;
}

/* ---- connections ---- */

static void watch(struct conn *c, int how, unsigned events)
{
    struct epoll_event e = {.events = events, .data.ptr = c};
    epoll_ctl(poller, how, c->fd, &e);
}

static int dial(int port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)
        refuse("connect: %s", strerror(errno));
    return fd;
}

static void send_request(struct conn *c)
{
    while (c->sent < c->request->n) {
        ssize_t sent = send(c->fd, c->out + c->sent, c->request->n - c->sent, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN)
                refuse("send: %s", strerror(errno));
            watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            c->state = SENDING;
            return;
        }
        c->sent += (size_t)sent;
    }
    if (c->state != READ_HEAD)
        watch(c, EPOLL_CTL_MOD, EPOLLIN);
    c->state = READ_HEAD;
}

static void begin(struct conn *c)
{
    u64 now = now_ns();
    if (now >= end_ns)
        return;
    prepare(c);
    begun++;
    running++;
    c->sent = c->n = c->line_len = 0;
    c->got = c->number = c->last_chunk = 0;
    c->done = 0;
    c->hash = FNV_BASIS;
    c->began = now;
    if (c->fd < 0) {
        counted.reconnects += c->used != 0;
        c->used = 1;
        c->fd = dial(asked.port);
        c->state = CONNECTING;
        watch(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
        return;
    }
    c->state = READ_HEAD; /* already watched for input alone */
    send_request(c);
}

static void hang_up(struct conn *c)
{
    close(c->fd);
    c->fd = -1;
}

/* ---- answers ---- */

static void keep_bytes(struct conn *c, const char *bytes, size_t n)
{
    if (c->n + n + 1 > c->room) {
        c->room = (c->n + n + 1) * 2;
        c->in = grown(c->in, c->room);
    }
    memcpy(c->in + c->n, bytes, n);
    c->n += n;
    c->in[c->n] = 0;
}

/* The last events of a stream; true if this is one of them, and right. */
static int closes_stream(struct conn *c, const char *text, size_t n)
{
    if (n == sizeof DONE_EVENT - 1 && memcmp(text, DONE_EVENT, n) == 0) {
        c->done = 1;
        return 1;
    }
    if (asked.check == TEXT)
        return !memmem(text, n, "T=", 2);
    if (c->number != asked.tokens)
        return 0;
    char expected[512];
    size_t length = (size_t)hash_event(expected, sizeof expected, c->seed, c->hash);
    if (length != n || memcmp(expected, text, n) != 0)
        refuse("a stream's bytes differ from those that were sent");
    c->number++;
    return 1;
}

static void take_event(struct conn *c, const char *text, size_t n, u64 now)
{
    if (closes_stream(c, text, n))
        return;
    const char *stamp = memmem(text, n, "T=", 2);
    if (!stamp || n - (size_t)(stamp - text) < 2 + 19 + 1 + 6 + 2 + sizeof PAD)
        refuse("an event that is no token: %.*s", n < 120 ? (int)n : 120, text);
    char *rest;
    u64 sent_ns = strtoull(stamp + 2, &rest, 10), number = strtoull(rest + 1, &rest, 10);
    if (number != c->number || strncmp(rest, "; " PAD "\"", sizeof PAD + 2) != 0)
        refuse("token %" PRIu64 " where token %" PRIu64 " was due", number, c->number);
    c->hash = fnv1a(c->hash, text, n);
    c->number++;
    counted.chunks++;
    if (now >= warm_ns && now < end_ns) {
        counted.timed_chunks++;
        add(&delay, (double)(now - sent_ns) / 1e3);
        if (c->last_chunk)
            add(&gap, (double)(now - c->last_chunk) / 1e3);
    }
    c->last_chunk = now;
}

static void take_events(struct conn *c, u64 now)
{
    size_t from = 0;
    char *end;
    while ((end = memmem(c->in + from, c->n - from, "\n\n", 2))) {
        take_event(c, c->in + from, (size_t)(end + 2 - (c->in + from)), now);
        from = (size_t)(end + 2 - c->in);
    }
    memmove(c->in, c->in + from, c->n - from);
    c->n -= from;
}

static void compare_pattern(const struct conn *c, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t from = (size_t)((c->got + i) % PATTERN_LETTERS), part = sizeof pattern - from;
        if (part > n - i)
            part = n - i;
        if (memcmp(bytes + i, pattern + from, part) != 0)
            refuse("a download's bytes differ from those that were sent");
        i += part;
    }
}

static void take_body(struct conn *c, const char *bytes, size_t n, u64 now)
{
    if (!c->got && now >= warm_ns)
        add(&first_byte, (double)(now - c->began) / 1e3);
    if (asked.mode == DOWNLOAD) {
        compare_pattern(c, bytes, n);
    } else {
        keep_bytes(c, bytes, n);
        if (asked.mode == SSE)
            take_events(c, now);
    }
    c->got += n;
    counted.body_bytes += n;
}

/* The length and byte sum of the request as the engine saw it. */
static void read_fingerprint(const char *answer, u64 *length, u64 *sum)
{
    static const char name[] = "\"system_fingerprint\":\"";
    const char *found = strstr(answer, name);
    if (!found || sscanf(found + sizeof name - 1, "%" SCNu64 "-%" SCNu64, length, sum) != 2)
        refuse("an answer without its fingerprint: %.120s", answer);
}

static void check_chat(struct conn *c)
{
    if (asked.check != TEXT) {
        char expected[2048];
        u64 length = c->request->length, sum = c->sum;
        if (asked.check == ANSWER)
            read_fingerprint(c->in, &length, &sum);
        int n = chat_answer(expected, sizeof expected, pattern, c->seed, length, sum);
        if ((size_t)n != c->n || memcmp(expected, c->in, c->n) != 0)
            refuse("an answer differs from the one that was sent: %.120s", c->in);
        return;
    }
    char id[40];
    snprintf(id, sizeof id, "chatcmpl-%016" PRIx64 "\"", c->seed);
    if (!strstr(c->in, id))
        refuse("an answer is not for the request: %.200s", c->in);
    const char *content = memmem(c->in, c->n, pattern, 150);
    if (!content)
        refuse("an answer has lost its text: %.200s", c->in);
}

static void check_upload(struct conn *c)
{
    char expected[512];
    int n = embedding_answer(expected, sizeof expected, c->request->length, c->request->sum);
    if (asked.check != TEXT) {
        if ((size_t)n != c->n || memcmp(expected, c->in, c->n) != 0)
            refuse("the engine got another body than was sent: %.120s", c->in);
        return;
    }
    const char *numbers = strstr(c->in, "\"embedding\":");
    numbers = numbers ? strchr(numbers, '[') : NULL;
    double length = numbers ? strtod(numbers + 1, NULL) : 0;
    if (length < (double)c->request->length || length > (double)c->request->length + 1024)
        refuse("the engine got a body of %.0f bytes instead of %" PRIu64 " and a little", length,
               c->request->length);
}

static void complete(struct conn *c, u64 now)
{
    if (asked.mode == CHAT)
        check_chat(c);
    else if (asked.mode == UPLOAD)
        check_upload(c);
    else if (asked.mode == DOWNLOAD && c->got != asked.big_bytes)
        refuse("a download of %" PRIu64 " bytes instead of %" PRIu64, c->got, asked.big_bytes);
    else if (asked.mode == SSE && (!c->done || c->n || c->number < asked.tokens))
        refuse("a stream ended after %" PRIu64 " of %" PRIu64 " tokens", c->number, asked.tokens);
    counted.answers++;
    last_ns = now;
    if (now >= warm_ns && now < end_ns) {
        counted.timed++;
        add(&latency, (double)(now - c->began) / 1e3);
    }
    running--;
    c->state = IDLE;
    if (!c->keep)
        hang_up(c);
    begin(c);
}

/* 1: the head is read, and `*body` is where the body begins in `c->in`. */
static int take_head(struct conn *c, size_t *body)
{
    char *end = memmem(c->in, c->n, "\r\n\r\n", 4);
    if (!end) {
        if (c->n > HEAD_MAX)
            refuse("an answer's head of more than %d bytes", HEAD_MAX);
        return 0;
    }
    *body = (size_t)(end + 4 - c->in);
    int status = c->n > 12 ? atoi(c->in + 9) : 0;
    if (strncmp(c->in, "HTTP/1.1 ", 9) != 0 || status != 200)
        refuse("status %d: %.20s ... %.160s", status, c->in, end + 4);
    const char *line = memchr(c->in, '\n', c->n);
    const char *length = header(line, end, "\ncontent-length:");
    const char *coding = header(line, end, "\ntransfer-encoding:");
    if (length && coding)
        refuse("an answer with a length and a transfer coding");
    if (coding && !is_token(coding, "chunked"))
        refuse("an answer with another transfer coding than chunked");
    c->framing = coding ? CHUNKED : length ? SIZED : UNTIL_CLOSE;
    c->left = length ? strtoull(length, NULL, 10) : 0;
    c->part = SIZE_LINE;
    c->keep = c->framing != UNTIL_CLOSE &&
              !is_token(header(line, end, "\nconnection:"), "close");
    if (asked.mode == SSE && c->framing != CHUNKED)
        refuse("a stream that is not chunked");
    return 1;
}

static void chunk_size(struct conn *c)
{
    char *end;
    c->line[c->line_len] = 0;
    c->left = strtoull(c->line, &end, 16);
    if (end == c->line || (*end != '\r' && *end != ';'))
        refuse("a chunk size that is none: %s", c->line);
    c->line_len = 0;
    c->part = c->left ? DATA : TRAILER;
}

/* Returns where the answer ended, or `end`. */
static const char *take_chunks(struct conn *c, const char *at, const char *end, u64 now)
{
    while (at < end) {
        if (c->part == DATA) {
            size_t n = (size_t)(end - at);
            if (n > c->left)
                n = (size_t)c->left;
            take_body(c, at, n, now);
            at += n;
            c->left -= n;
            if (!c->left)
                c->part = AFTER_DATA;
            continue;
        }
        char byte = *at++;
        if (c->line_len + 1 >= sizeof c->line)
            refuse("a chunk's line of more than %zu bytes", sizeof c->line);
        c->line[c->line_len++] = byte;
        if (byte != '\n')
            continue;
        if (c->part == SIZE_LINE) {
            chunk_size(c);
            continue;
        }
        if (c->line_len != 2 || c->line[0] != '\r')
            refuse("a chunk or a chunked answer that does not end with CRLF");
        c->line_len = 0;
        if (c->part == TRAILER) {
            complete(c, now);
            return at;
        }
        c->part = SIZE_LINE;
    }
    return at;
}

static const char *take_part(struct conn *c, const char *at, const char *end, u64 now)
{
    if (c->framing == CHUNKED)
        return take_chunks(c, at, end, now);
    size_t n = (size_t)(end - at);
    if (c->framing == SIZED && n > c->left)
        n = (size_t)c->left;
    if (n)
        take_body(c, at, n, now);
    if (c->framing == SIZED && (c->left -= n) == 0)
        complete(c, now);
    return at + n;
}

static void closed(struct conn *c, u64 now)
{
    if (c->state == IDLE) {
        hang_up(c);
        return;
    }
    if (c->state != READ_BODY || c->framing != UNTIL_CLOSE)
        refuse("the connection was closed %s an answer",
               c->state == READ_BODY ? "in the middle of" : "before");
    complete(c, now);
}

static void readable(struct conn *c)
{
    static char buffer[READ_BYTES];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    u64 now = now_ns();
    if (n < 0 && errno == EAGAIN)
        return;
    if (n < 0)
        refuse("recv: %s", strerror(errno));
    if (n == 0) {
        closed(c, now);
        return;
    }
    counted.reads++;
    const char *at = buffer, *end = buffer + n;
    if (c->state == IDLE)
        refuse("bytes after an answer");
    if (c->state != READ_BODY) {
        size_t had = c->n, body;
        keep_bytes(c, buffer, (size_t)n);
        if (!take_head(c, &body))
            return;
        if (c->sent < c->request->n)
            refuse("an answer before the request was sent");
        at = buffer + (body - had);
        c->n = 0;
        c->state = READ_BODY;
    }
    if (take_part(c, at, end, now) != end)
        refuse("bytes after an answer");
}

/* ---- callers who leave ---- */

static u64 engine_stat(const char *name)
{
    char text[4096];
    size_t n = 0;
    ssize_t got;
    static const char ask[] = "GET /stats HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n";
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)asked.engine_port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) || send(fd, ask, sizeof ask - 1, 0) < 0)
        refuse("the engine does not answer: %s", strerror(errno));
    while ((got = recv(fd, text + n, sizeof text - 1 - n, 0)) > 0)
        n += (size_t)got;
    close(fd);
    text[n] = 0;
    const char *found = strstr(text, name);
    if (!found)
        refuse("the engine's stats lack %s", name);
    return strtoull(found + strlen(name), NULL, 10);
}

static void rest_ms(int ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
}

/* One caller who leaves; returns the ns until the engine saw it, or -1. */
static double leave(void)
{
    u64 before = engine_stat("\"aborts\":");
    struct conn c = {.own = grown(NULL, requests[0].n)};
    prepare(&c);
    begun++;
    c.fd = dial(asked.port);
    rest_ms(20);
    if (send(c.fd, c.out, c.request->n, MSG_NOSIGNAL) != (ssize_t)c.request->n)
        refuse("send: %s", strerror(errno));
    free(c.own);
    rest_ms(asked.after_ms);
    if (engine_stat("\"active\":") != 1)
        refuse("the request is not under way at the engine when its caller leaves");
    char text[65536];
    while (recv(c.fd, text, sizeof text, MSG_DONTWAIT) > 0)
        ; /* unread bytes would turn our FIN into a reset */
    u64 left = now_ns();
    close(c.fd);
    while (now_ns() - left < GONE_NS) {
        rest_ms(2);
        if (engine_stat("\"aborts\":") > before)
            return (double)engine_stat("\"last_abort_ns\":") - (double)left;
    }
    while (engine_stat("\"active\":") && now_ns() - left < PATIENCE_NS)
        rest_ms(50);
    return -1;
}

static void report_gone(void)
{
    int missed = 0;
    for (int i = 0; i < asked.trials; i++) {
        double ns = leave();
        if (ns < 0)
            missed++;
        else
            add(&delay, ns / 1e3);
    }
    qsort(delay.values, delay.n, sizeof *delay.values, ascending);
    printf("{\"mode\":\"gone\",\"trials\":%d,\"missed\":%d", asked.trials, missed);
    if (delay.n)
        printf(",\"gone_p50\":%.0f,\"gone_max\":%.0f", percentile(&delay, 50),
               percentile(&delay, 100));
    printf("}\n");
}

/* ---- the loop ---- */

static void handle(struct conn *c, unsigned events)
{
    if (c->fd < 0)
        return;
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error)
            refuse("connect: %s", strerror(error));
        if (events & EPOLLOUT)
            send_request(c);
        return;
    }
    if ((events & EPOLLOUT) && c->state == SENDING)
        send_request(c);
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        readable(c);
}

static void run(void)
{
    struct epoll_event events[EVENTS];
    int started = 0;
    poller = epoll_create1(0);
    conns = grown(NULL, (size_t)asked.connections * sizeof *conns);
    memset(conns, 0, (size_t)asked.connections * sizeof *conns);
    size_t longest = 0;
    for (int i = 0; i < variants; i++)
        longest = requests[i].n > longest ? requests[i].n : longest;
    begin_ns = now_ns();
    warm_ns = begin_ns + (u64)(asked.warmup * 1e9);
    end_ns = begin_ns + (u64)(asked.seconds * 1e9);
    for (int i = 0; i < asked.connections; i++) {
        conns[i].fd = -1;
        conns[i].own = requests[0].seed_at ? grown(NULL, longest) : NULL;
        conns[i].start_at = begin_ns + (u64)asked.ramp_ms * 1000000 * (u64)i /
                                           (u64)asked.connections;
    }
    for (;;) {
        u64 now = now_ns();
        while (started < asked.connections && conns[started].start_at <= now)
            begin(&conns[started++]);
        if (started == asked.connections && !running)
            break;
        if (now > end_ns + PATIENCE_NS)
            refuse("%" PRIu64 " answers not complete %.0f s after the end", running,
                   PATIENCE_NS / 1e9);
        int n = epoll_wait(poller, events, EVENTS, started < asked.connections ? 1 : 200);
        for (int i = 0; i < n; i++)
            handle(events[i].data.ptr, events[i].events);
    }
}

static void print_percentiles(const char *name, struct samples *of)
{
    if (!of->n)
        return;
    qsort(of->values, of->n, sizeof *of->values, ascending);
    printf(",\"%s_p50\":%.1f,\"%s_p99\":%.1f", name, percentile(of, 50), name,
           percentile(of, 99));
}

static void report(void)
{
    /* Large bodies are few: all of them count, up to the end of the last. */
    int large = asked.mode == UPLOAD || asked.mode == DOWNLOAD;
    double seconds = large ? (double)(last_ns - begin_ns) / 1e9 : asked.seconds - asked.warmup;
    u64 answers = large ? counted.answers : counted.timed;
    if (!answers && !counted.timed_chunks)
        refuse("not one answer in %.1f s", seconds);
    printf("{\"mode\":\"%s\",\"connections\":%d,\"answers\":%" PRIu64 ",\"reconnects\":%" PRIu64
           ",\"answers_per_s\":%.2f",
           modes[asked.mode], asked.connections, counted.answers, counted.reconnects,
           (double)answers / seconds);
    if (asked.mode == SSE)
        printf(",\"chunks\":%" PRIu64 ",\"chunks_per_s\":%.0f,\"reads\":%" PRIu64, counted.chunks,
               (double)counted.timed_chunks / seconds, counted.reads);
    print_percentiles("latency", &latency);
    print_percentiles("first_byte", &first_byte);
    print_percentiles("delay", &delay);
    print_percentiles("gap", &gap);
    printf("}\n");
}

static _Noreturn void usage(void)
{
    fputs("usage: loadgen --mode json|sse|upload|download|gone --port PORT [--path PATH]\n"
          "         [--header 'Name: value'] [--check bytes|answer|text] [--connections N]\n"
          "         [--seconds S] [--warmup S] [--ramp-ms MS] [--tokens N]\n"
          "         [--body-bytes N] [--big-bytes N]\n"
          "  gone:  --engine-port PORT [--trials N] [--after-ms MS] [--stream 0|1]\n",
          stderr);
    exit(2);
}

static int place_of(const char *name, const char *const names[])
{
    for (int i = 0; names[i]; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    usage();
}

static void add_header(const char *line)
{
    size_t n = strlen(asked.headers);
    if (n + strlen(line) + 3 > sizeof asked.headers)
        usage();
    sprintf(asked.headers + n, "%s\r\n", line);
}

static void understand(int count, char **words)
{
    if (count % 2 == 0)
        usage();
    for (int i = 1; i < count; i += 2) {
        const char *name = words[i], *value = words[i + 1];
        const struct {
            const char *name;
            int *whole;
            u64 *large;
            double *real;
        } numbers[] = {{"--port", &asked.port, NULL, NULL},
                       {"--engine-port", &asked.engine_port, NULL, NULL},
                       {"--connections", &asked.connections, NULL, NULL},
                       {"--ramp-ms", &asked.ramp_ms, NULL, NULL},
                       {"--trials", &asked.trials, NULL, NULL},
                       {"--after-ms", &asked.after_ms, NULL, NULL},
                       {"--stream", &asked.stream, NULL, NULL},
                       {"--tokens", NULL, &asked.tokens, NULL},
                       {"--body-bytes", NULL, &asked.body_bytes, NULL},
                       {"--big-bytes", NULL, &asked.big_bytes, NULL},
                       {"--seconds", NULL, NULL, &asked.seconds},
                       {"--warmup", NULL, NULL, &asked.warmup}};
        size_t k = 0, known = sizeof numbers / sizeof *numbers;
        while (k < known && strcmp(numbers[k].name, name) != 0)
            k++;
        if (k < known && numbers[k].whole)
            *numbers[k].whole = atoi(value);
        else if (k < known && numbers[k].large)
            *numbers[k].large = strtoull(value, NULL, 10);
        else if (k < known)
            *numbers[k].real = atof(value);
        else if (strcmp(name, "--mode") == 0)
            asked.mode = (enum mode)place_of(value, modes);
        else if (strcmp(name, "--path") == 0)
            asked.path = value;
        else if (strcmp(name, "--header") == 0)
            add_header(value);
        else if (strcmp(name, "--check") == 0)
            asked.check = (enum check)place_of(value, checks);
        else
            usage();
    }
    if (!asked.port || asked.connections < 1 || (asked.mode == GONE && !asked.engine_port))
        usage();
}

int main(int count, char **words)
{
    understand(count, words);
    signal(SIGPIPE, SIG_IGN);
    fill_pattern(pattern, sizeof pattern);
    variants = asked.mode == UPLOAD || asked.mode == GONE ? 1 : VARIANTS;
    for (int i = 0; i < variants; i++)
        build(&requests[i], words_of_prompt[i]);
    if (asked.mode == GONE) {
        report_gone();
        return 0;
    }
    run();
    report();
}
