/* engine.c - a synthetic vLLM: one thread, epoll, HTTP/1.1; made to cost less than any proxy.
 *
 *   POST .../chat/completions   a chat completion; with "stream":true an SSE stream of `tokens`
 *                               events, one write(2) each, `gap_us` apart; with "user":"big" a
 *                               body of `big_bytes` bytes of the pattern
 *   POST .../embeddings         an embedding that gives the request body's length and byte sum
 *   GET  /v1/models, /health    small JSON
 *   GET  /ctl?gap_us=..&first_us=..&tokens=..&json_delay_us=..&big_bytes=..   change behaviour
 *   GET  /stats                 counters; `aborts`: callers who left in the middle of an answer
 *
 * With --key, a POST without that bearer token gets 401 and is counted, as vLLM does: a proxy that
 * loses the engine's key cannot be measured. Limits: see wire.h; no pipelining; 127.0.0.1 only.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire.h"

#define LOOKED_AT 4096  /* bytes of a request body that are searched for what it asks */
#define READ_BYTES (1 << 18)
#define EVENTS 512
#define BACKLOG 4096

static struct {
    u64 tokens, gap_us, first_us, json_delay_us, big_bytes;
} config = {128, 0, 0, 0, 8u << 20};

static struct {
    u64 accepted, open, requests, active, done, aborts, last_abort_ns, unauthorized;
} stats;

static const char *key; /* NULL: none is asked for */

enum state { READ_HEAD, READ_BODY, WAIT, STREAM, FLUSH };
enum chunk { SIZE_LINE, AFTER_DATA, TRAILER };

struct conn {
    int fd;
    enum state state;
    int place; /* in the timer heap; -1: not there */
    u64 due;
    char *in; /* unread input */
    size_t in_len, in_room;
    char *out; /* what the socket did not take yet */
    size_t out_len, out_sent, out_room;
    int wants_out;
    char method[8], path[512];
    int authorized, keep, chunked;
    enum chunk chunk;
    u64 length, got, sum, chunk_left; /* of the request body */
    char looked[LOOKED_AT + 1];
    size_t looked_len;
    int big;
    u64 big_left;
    u64 seed, number, hash; /* of the stream */
};

static int poller;
static struct conn **heap;
static int heap_len, heap_room;
static char pattern[PATTERN_LETTERS * 4096];

static int process(struct conn *c);

static void *grown(void *memory, size_t bytes)
{
    void *found = realloc(memory, bytes);
    if (!found) {
        perror("engine: memory");
        exit(1);
    }
    return found;
}

/* ---- timers: a binary heap by due time ---- */

static void place(int i, struct conn *c)
{
    heap[i] = c;
    c->place = i;
}

static void sift_up(int i)
{
    struct conn *c = heap[i];
    while (i && heap[(i - 1) / 2]->due > c->due) {
        place(i, heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    place(i, c);
}

static void sift_down(int i)
{
    struct conn *c = heap[i];
    for (;;) {
        int child = 2 * i + 1;
        if (child >= heap_len)
            break;
        if (child + 1 < heap_len && heap[child + 1]->due < heap[child]->due)
            child++;
        if (heap[child]->due >= c->due)
            break;
        place(i, heap[child]);
        i = child;
    }
    place(i, c);
}

static void timer_off(struct conn *c)
{
    int i = c->place;
    if (i < 0)
        return;
    c->place = -1;
    struct conn *last = heap[--heap_len];
    if (last != c) {
        place(i, last);
        sift_up(i);
        sift_down(last->place);
    }
}

static void timer_on(struct conn *c, u64 due)
{
    timer_off(c);
    if (heap_len == heap_room) {
        heap_room = heap_room ? 2 * heap_room : 256;
        heap = grown(heap, (size_t)heap_room * sizeof *heap);
    }
    c->due = due;
    place(heap_len, c);
    sift_up(heap_len++);
}

/* ---- connections ---- */

static void drop(struct conn *c, int by_peer)
{
    if (c->state >= WAIT) {
        stats.active--;
        if (by_peer) {
            stats.aborts++;
            stats.last_abort_ns = now_ns();
        }
    }
    timer_off(c);
    close(c->fd);
    stats.open--;
    free(c->in);
    free(c->out);
    free(c);
}

static void want_out(struct conn *c, int wanted)
{
    if (c->wants_out == wanted)
        return;
    c->wants_out = wanted;
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | (wanted ? EPOLLOUT : 0u),
                            .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
}

/* Send, keeping back what the socket does not take. 0: all sent; 1: some kept; -1: dropped. */
static int put(struct conn *c, const char *bytes, size_t n)
{
    if (c->out_len == c->out_sent) {
        ssize_t sent = send(c->fd, bytes, n, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) {
                drop(c, 1);
                return -1;
            }
            sent = 0;
        }
        if ((size_t)sent == n)
            return 0;
        bytes += sent;
        n -= (size_t)sent;
        c->out_len = c->out_sent = 0;
    }
    if (c->out_len + n > c->out_room) {
        c->out_room = (c->out_len + n) * 2;
        c->out = grown(c->out, c->out_room);
    }
    memcpy(c->out + c->out_len, bytes, n);
    c->out_len += n;
    want_out(c, 1);
    return 1;
}

/* The answer is complete. */
static int finish(struct conn *c)
{
    stats.active--;
    stats.done++;
    c->state = READ_HEAD;
    if (!c->keep) {
        drop(c, 0);
        return -1;
    }
    return c->in_len ? process(c) : 0;
}

/* ---- answers ---- */

static int answer(struct conn *c, const char *status, const char *body, size_t n)
{
    char text[4096];
    int head = snprintf(text, sizeof text,
                        "HTTP/1.1 %s\r\ndate: Sun, 01 Jun 2025 00:00:00 GMT\r\nserver: uvicorn\r\n"
                        "content-length: %zu\r\ncontent-type: application/json\r\n%s\r\n",
                        status, n, c->keep ? "" : "connection: close\r\n");
    memcpy(text + head, body, n);
    c->state = FLUSH;
    int kept = put(c, text, (size_t)head + n);
    return kept ? (kept < 0 ? -1 : 0) : finish(c);
}

static int answer_completion(struct conn *c)
{
    char body[2048];
    int n = strstr(c->looked, "\"input\"")
                ? embedding_answer(body, sizeof body, c->got, c->sum)
                : chat_answer(body, sizeof body, pattern, c->seed, c->got, c->sum);
    return answer(c, "200 OK", body, (size_t)n);
}

static int feed_big(struct conn *c)
{
    while (c->big_left) {
        size_t from = (size_t)((config.big_bytes - c->big_left) % PATTERN_LETTERS);
        size_t n = sizeof pattern - from;
        if (n > c->big_left)
            n = (size_t)c->big_left;
        ssize_t sent = send(c->fd, pattern + from, n, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EAGAIN) {
                want_out(c, 1);
                return 0;
            }
            drop(c, 1);
            return -1;
        }
        c->big_left -= (u64)sent;
    }
    c->big = 0;
    want_out(c, 0);
    return finish(c);
}

static int answer_big(struct conn *c)
{
    char head[256];
    int n = snprintf(head, sizeof head,
                     "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: %" PRIu64
                     "\r\ncontent-type: application/octet-stream\r\n\r\n",
                     config.big_bytes);
    c->big = 1;
    c->big_left = config.big_bytes;
    int kept = put(c, head, (size_t)n);
    return kept ? (kept < 0 ? -1 : 0) : feed_big(c);
}

static int begin_stream(struct conn *c)
{
    static const char head[] = "HTTP/1.1 200 OK\r\ndate: Sun, 01 Jun 2025 00:00:00 GMT\r\n"
                               "server: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8"
                               "\r\ntransfer-encoding: chunked\r\n\r\n";
    c->state = STREAM;
    c->number = 0;
    c->hash = FNV_BASIS;
    if (put(c, head, sizeof head - 1) < 0)
        return -1;
    timer_on(c, now_ns() + config.first_us * 1000);
    return 0;
}

static void next_token(struct conn *c)
{
    timer_on(c, config.gap_us ? c->due + config.gap_us * 1000 : now_ns());
}

static void send_event(struct conn *c)
{
    char text[512], frame[700];
    int last = c->number >= config.tokens;
    int n = last ? hash_event(text, sizeof text, c->seed, c->hash)
                 : token_event(text, sizeof text, c->seed, now_ns(), c->number);
    c->hash = fnv1a(c->hash, text, (size_t)n);
    c->number++;
    int framed = snprintf(frame, sizeof frame, "%x\r\n%s\r\n", (unsigned)n, text);
    if (last)
        framed += snprintf(frame + framed, sizeof frame - (size_t)framed,
                           "%zx\r\n" DONE_EVENT "\r\n0\r\n\r\n", sizeof DONE_EVENT - 1);
    timer_off(c);
    if (last)
        c->state = FLUSH;
    int kept = put(c, frame, (size_t)framed);
    if (kept)
        return;
    if (last)
        finish(c);
    else
        next_token(c);
}

static void configure(const char *query)
{
    const struct {
        const char *name;
        u64 *value;
    } known[] = {{"tokens=", &config.tokens},
                 {"gap_us=", &config.gap_us},
                 {"first_us=", &config.first_us},
                 {"json_delay_us=", &config.json_delay_us},
                 {"big_bytes=", &config.big_bytes}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const char *found = strstr(query, known[i].name);
        if (found)
            *known[i].value = strtoull(found + strlen(known[i].name), NULL, 10);
    }
}

static int answer_get(struct conn *c)
{
    char body[1024] = "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\","
                      "\"created\":1748736000,\"owned_by\":\"vllm\",\"root\":\"m\","
                      "\"parent\":null,\"max_model_len\":4096}],\"model_path\":\"m\"}";
    if (strncmp(c->path, "/ctl", 4) == 0) {
        configure(c->path);
        strcpy(body, "{}");
    } else if (strncmp(c->path, "/stats", 6) == 0) {
        snprintf(body, sizeof body,
                 "{\"accepted\":%" PRIu64 ",\"open\":%" PRIu64 ",\"requests\":%" PRIu64
                 ",\"active\":%" PRIu64 ",\"done\":%" PRIu64 ",\"aborts\":%" PRIu64
                 ",\"last_abort_ns\":%" PRIu64 ",\"unauthorized\":%" PRIu64 "}",
                 stats.accepted, stats.open, stats.requests, stats.active - 1, stats.done,
                 stats.aborts, stats.last_abort_ns, stats.unauthorized);
    }
    return answer(c, "200 OK", body, strlen(body));
}

static int asks(const struct conn *c, const char *tight, const char *spaced)
{
    return strstr(c->looked, tight) || strstr(c->looked, spaced);
}

/* The request is complete. */
static int respond(struct conn *c)
{
    stats.requests++;
    stats.active++;
    c->state = FLUSH;
    c->looked[c->looked_len] = 0;
    if (strcmp(c->method, "GET") == 0)
        return answer_get(c);
    if (!c->authorized) {
        static const char body[] = "{\"error\":\"Unauthorized\"}";
        stats.unauthorized++;
        return answer(c, "401 Unauthorized", body, sizeof body - 1);
    }
    const char *seed = strstr(c->looked, "\"seed\":");
    c->seed = seed ? strtoull(seed + 7, NULL, 10) : 0;
    if (asks(c, "\"user\":\"big\"", "\"user\": \"big\""))
        return answer_big(c);
    if (asks(c, "\"stream\":true", "\"stream\": true"))
        return begin_stream(c);
    if (config.json_delay_us) {
        c->state = WAIT;
        timer_on(c, now_ns() + config.json_delay_us * 1000);
        return 0;
    }
    return answer_completion(c);
}

/* ---- requests ---- */

static void take_body(struct conn *c, size_t n)
{
    if (c->looked_len < LOOKED_AT) {
        size_t part = LOOKED_AT - c->looked_len < n ? LOOKED_AT - c->looked_len : n;
        memcpy(c->looked + c->looked_len, c->in, part);
        c->looked_len += part;
    }
    c->sum += byte_sum(c->in, n);
    c->got += n;
}

static void eat(struct conn *c, size_t n)
{
    memmove(c->in, c->in + n, c->in_len - n);
    c->in_len -= n;
}

/* 1: the head is read; 0: not all of it is here; -1: dropped. */
static int read_head(struct conn *c)
{
    char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
    if (!end)
        return 0;
    *end = 0;
    if (sscanf(c->in, "%7s %511s", c->method, c->path) != 2) {
        drop(c, 0);
        return -1;
    }
    const char *line = memchr(c->in, '\n', (size_t)(end - c->in));
    if (!line)
        line = end;
    const char *length = header(line, end, "\ncontent-length:");
    const char *bearer = header(line, end, "\nauthorization:");
    c->length = length ? strtoull(length, NULL, 10) : 0;
    c->chunked = is_token(header(line, end, "\ntransfer-encoding:"), "chunked");
    c->keep = !is_token(header(line, end, "\nconnection:"), "close");
    c->authorized = !key || (is_token(bearer, "bearer ") &&
                             strncmp(bearer + 7, key, strlen(key)) == 0);
    if (is_token(header(line, end, "\nexpect:"), "100-continue") &&
        put(c, "HTTP/1.1 100 Continue\r\n\r\n", 25) < 0)
        return -1;
    c->got = c->sum = c->looked_len = c->chunk_left = 0;
    c->chunk = SIZE_LINE;
    c->state = READ_BODY;
    eat(c, (size_t)(end + 4 - c->in));
    return 1;
}

/* 1: the body is complete. */
static int read_sized(struct conn *c)
{
    size_t n = (size_t)(c->length - c->got);
    if (n > c->in_len)
        n = c->in_len;
    take_body(c, n);
    eat(c, n);
    return c->got == c->length;
}

static int read_chunked(struct conn *c)
{
    for (;;) {
        if (c->chunk_left) {
            size_t n = c->chunk_left < c->in_len ? (size_t)c->chunk_left : c->in_len;
            take_body(c, n);
            eat(c, n);
            c->chunk_left -= n;
            if (c->chunk_left)
                return 0;
            c->chunk = AFTER_DATA;
        }
        char *end = memmem(c->in, c->in_len, "\r\n", 2);
        if (!end)
            return 0;
        int blank = end == c->in;
        if (c->chunk == SIZE_LINE) {
            c->chunk_left = strtoull(c->in, NULL, 16);
            c->chunk = c->chunk_left ? SIZE_LINE : TRAILER;
        } else if (c->chunk == AFTER_DATA) {
            c->chunk = SIZE_LINE;
        } else if (blank) {
            eat(c, 2);
            return 1;
        }
        eat(c, (size_t)(end + 2 - c->in));
    }
}

/* Read as far as the input goes. -1: dropped. */
static int process(struct conn *c)
{
    if (c->state == READ_HEAD) {
        int read = read_head(c);
        if (read <= 0)
            return read;
    }
    if (c->state != READ_BODY)
        return 0;
    return (c->chunked ? read_chunked(c) : read_sized(c)) ? respond(c) : 0;
}

/* ---- the loop ---- */

static void accept_all(int listener)
{
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct conn *c = grown(NULL, sizeof *c);
        memset(c, 0, sizeof *c);
        c->fd = fd;
        c->place = -1;
        stats.accepted++;
        stats.open++;
        struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
    }
}

/* -1: dropped. */
static int readable(struct conn *c)
{
    static char buffer[READ_BYTES];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n == 0 || (n < 0 && errno != EAGAIN)) {
        drop(c, 1);
        return -1;
    }
    if (n < 0)
        return 0;
    if (c->in_len + (size_t)n + 1 > c->in_room) {
        c->in_room = (c->in_len + (size_t)n + 1) * 2;
        c->in = grown(c->in, c->in_room);
    }
    memcpy(c->in + c->in_len, buffer, (size_t)n);
    c->in_len += (size_t)n;
    return c->state <= READ_BODY ? process(c) : 0;
}

static void writable(struct conn *c)
{
    if (c->out_sent < c->out_len) {
        ssize_t sent = send(c->fd, c->out + c->out_sent, c->out_len - c->out_sent, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN)
                drop(c, 1);
            return;
        }
        c->out_sent += (size_t)sent;
        if (c->out_sent < c->out_len)
            return;
        c->out_sent = c->out_len = 0;
    }
    if (c->big) {
        feed_big(c);
        return;
    }
    want_out(c, 0);
    if (c->state == FLUSH)
        finish(c);
    else if (c->state == STREAM && c->place < 0)
        next_token(c);
}

static void run_timers(void)
{
    u64 now = now_ns();
    while (heap_len && heap[0]->due <= now) {
        struct conn *c = heap[0];
        if (c->state == STREAM) {
            send_event(c);
        } else {
            timer_off(c);
            answer_completion(c);
        }
    }
}

static int listen_on(int port)
{
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, BACKLOG)) {
        perror("engine: listen");
        exit(1);
    }
    return listener;
}

static void serve(int listener)
{
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS];
    poller = epoll_create1(0);
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        struct timespec wait, *at_most = NULL;
        if (heap_len) {
            u64 now = now_ns(), left = heap[0]->due > now ? heap[0]->due - now : 0;
            wait.tv_sec = (time_t)(left / 1000000000);
            wait.tv_nsec = (long)(left % 1000000000);
            at_most = &wait;
        }
        int n = epoll_pwait2(poller, events, EVENTS, at_most, NULL);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c)
                accept_all(listener);
            else if ((events[i].events & ~(u64)EPOLLOUT) && readable(c) < 0)
                continue;
            else if (events[i].events & EPOLLOUT)
                writable(c);
        }
        run_timers();
    }
}

int main(int count, char **words)
{
    int port = 0;
    for (int i = 1; i + 1 < count; i += 2) {
        if (strcmp(words[i], "--port") == 0)
            port = atoi(words[i + 1]);
        else if (strcmp(words[i], "--key") == 0)
            key = words[i + 1];
    }
    if (!port) {
        fprintf(stderr, "usage: engine --port PORT [--key KEY]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    fill_pattern(pattern, sizeof pattern);
    serve(listen_on(port));
}
