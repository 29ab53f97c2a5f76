/* Passes the tokens of streams on, from engines to callers, without Python in between.

   It knows one thing only: pieces that are one or more whole chunks (RFC 9112, 7.1) with plain
   sizes and none of them the last. Whatever else comes, and whatever a caller does not take at
   once, is handed back together with its stream, so that there is one place, in Python, that
   judges it. Between two calls it holds nothing of a stream but two descriptors. */

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PIECE = 65536, /* bytes read at once */
    EVENTS = 128,  /* streams in one turn, then the event loop has its own */
    DIGITS = 4,    /* of a chunk's size; longer ones do not fit into a piece */
    NONE = -1
};

struct stream {
    int engine, caller;
};

struct pump {
    int epoll;
    int came, looked_at; /* of `events` */
    struct epoll_event events[EVENTS];
    struct stream *streams;
    unsigned char *moved; /* by stream: whether it has since somebody set this to 0 */
};

/* A stream that is handed back. */
struct handed_back {
    int received; /* bytes in `piece`; 0: the engine's side has ended, or broken */
    int sent;     /* bytes of them that the caller has been sent */
    unsigned char piece[PIECE];
};

struct pump *pump_new(int streams, unsigned char *moved)
{
    struct pump *pump = calloc(1, sizeof *pump);
    if (pump == NULL)
        return NULL;
    pump->epoll = epoll_create1(EPOLL_CLOEXEC);
    pump->streams = malloc((size_t)streams * sizeof *pump->streams);
    pump->moved = moved;
    if (pump->epoll < 0 || pump->streams == NULL) {
        if (pump->epoll >= 0)
            close(pump->epoll);
        free(pump->streams);
        free(pump);
        return NULL;
    }
    for (int slot = 0; slot < streams; slot++)
        pump->streams[slot] = (struct stream){NONE, NONE};
    return pump;
}

/* Return a descriptor that can be read when there is something to do. */
int pump_descriptor(const struct pump *pump)
{
    return pump->epoll;
}

/* Take a stream; return 0, or -1 if the kernel refuses. */
int pump_take(struct pump *pump, int slot, int engine, int caller)
{
    struct epoll_event wanted = {.events = EPOLLIN, .data.u32 = (unsigned)slot};
    if (epoll_ctl(pump->epoll, EPOLL_CTL_ADD, engine, &wanted) != 0)
        return -1;
    pump->streams[slot] = (struct stream){engine, caller};
    return 0;
}

void pump_leave(struct pump *pump, int slot)
{
    epoll_ctl(pump->epoll, EPOLL_CTL_DEL, pump->streams[slot].engine, NULL);
    pump->streams[slot] = (struct stream){NONE, NONE};
}

static int digit(unsigned char byte)
{
    if (byte >= '0' && byte <= '9')
        return byte - '0';
    byte |= 'a' - 'A';
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : NONE;
}

/* Return whether the bytes are whole chunks, at least one, and none of them the last. */
int pump_whole_chunks(const unsigned char *at, long length)
{
    const unsigned char *const end = at + length;
    while (at < end) {
        long size = 0;
        int digits = 0;
        for (; at < end && digits < DIGITS && digit(*at) != NONE; at++, digits++)
            size = size * 16 + digit(*at);
        if (size == 0 || end - at < 2 + size + 2)
            return 0;
        if (at[0] != '\r' || at[1] != '\n' || at[2 + size] != '\r' || at[3 + size] != '\n')
            return 0;
        at += 2 + size + 2;
    }
    return length > 0;
}

/* Pass one piece of a stream on; return whether the stream goes on so. */
static int pass_on(const struct stream *stream, struct handed_back *back)
{
    ssize_t received = recv(stream->engine, back->piece, PIECE, MSG_DONTWAIT);
    if (received < 0 && (errno == EAGAIN || errno == EINTR))
        return 1;
    back->received = received < 0 ? 0 : (int)received;
    back->sent = 0;
    if (!pump_whole_chunks(back->piece, back->received))
        return 0;
    ssize_t sent = send(stream->caller, back->piece, (size_t)received, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == received)
        return 1;
    back->sent = sent < 0 ? 0 : (int)sent; /* what failed will fail again in Python's hands */
    return 0;
}

/* Go on with what is ready; return the slot of a stream that is handed back and has left, or -1
   once there is nothing more to do now. */
int pump_go_on(struct pump *pump, struct handed_back *back)
{
    if (pump->looked_at >= pump->came) {
        pump->looked_at = 0;
        pump->came = epoll_wait(pump->epoll, pump->events, EVENTS, 0);
    }
    while (pump->looked_at < pump->came) {
        int slot = (int)pump->events[pump->looked_at++].data.u32;
        const struct stream *stream = &pump->streams[slot];
        if (stream->engine == NONE) /* it has left since */
            continue;
        pump->moved[slot] = 1;
        if (!pass_on(stream, back)) {
            pump_leave(pump, slot);
            return slot;
        }
    }
    return NONE;
}
