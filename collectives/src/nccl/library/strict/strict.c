/* An NCCL that moves nothing and notes every use that the real one, from 2.19 on, forbids:
 * - a call on a communicator before the one before it has returned, in the background too, or after its end;
 * - two calls on one communicator at a time ("Thread Safety" in NCCL's manual);
 * - an operation of one communicator while the calling thread still has the group of another one: until 2.25 NCCL keeps
 *   the newest group in the calling thread, and lets go of it with the next call that needs its communicator. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_USAGE = 5, IN_PROGRESS = 7, POLLS = 3 };

struct comm {
    char name[2]; /* the first letter of its id */
    atomic_int users;
    int polls;     /* questions until what is in progress has ended */
    int finalized; /* ncclCommFinalize was called */
    int ended;     /* destroyed or aborted; the memory stays, for those who come later */
};

typedef struct { char internal[128]; } unique_id;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char text[1 << 16], wrongs[1 << 12];
static atomic_int never_ready;
/* The group that the thread has not let go of, and whose operations it is adding. */
static _Thread_local struct comm *group, *grouped;
static _Thread_local int depth;

static void append(char *to, size_t size, const char *what, const struct comm *comm) {
    pthread_mutex_lock(&lock);
    size_t len = strlen(to);
    snprintf(to + len, size - len, "%s%s%s%s", len ? " " : "", what, comm ? ":" : "", comm ? comm->name : "");
    pthread_mutex_unlock(&lock);
}

static void note(const char *what, const struct comm *comm) { append(text, sizeof text, what, comm); }
static void wrong(const char *what, const struct comm *comm) { append(wrongs, sizeof wrongs, what, comm); }

const char *strictCalls(void) { return text; }
const char *strictWrongs(void) { return wrongs; }
void strictNeverReady(int on) { never_ready = on; }

static void enter(struct comm *comm, const char *what) {
    if (atomic_fetch_add(&comm->users, 1)) wrong("two-at-a-time", comm);
    usleep(100); /* so that a second one has time to come */
    if (comm->ended) wrong(what, comm);
}

static void leave(struct comm *comm) { atomic_fetch_sub(&comm->users, 1); }

/* What needs the communicator. */
static int need(struct comm *comm, const char *what) {
    enter(comm, what);
    if (comm->polls) {
        wrong("in-progress", comm);
        return INVALID_USAGE;
    }
    if (group == comm) group = NULL;
    return SUCCESS;
}

static int operation(const char *what, struct comm *comm, int type) {
    char typed[32];
    snprintf(typed, sizeof typed, "%s/%d", what, type);
    int code = need(comm, what);
    if (!depth) wrong("no-group", comm);
    if (group && group != comm) wrong("group-of-another", comm);
    grouped = comm;
    note(typed, comm);
    leave(comm);
    return code;
}

static int begin(struct comm *comm) {
    comm->polls = POLLS;
    return IN_PROGRESS;
}

int ncclGetVersion(int *version) { *version = 22304; return SUCCESS; }
int ncclGetUniqueId(unique_id *id) { memset(id, 'a', sizeof *id); return SUCCESS; }
const char *ncclGetErrorString(int code) { return code == INVALID_USAGE ? "invalid usage" : "an error"; }
const char *ncclGetLastError(void *comm) { (void)comm; return ""; }

int ncclCommInitRankConfig(struct comm **comm, int size, unique_id id, int rank, void *config) {
    (void)size, (void)rank, (void)config;
    *comm = calloc(1, sizeof **comm);
    (*comm)->name[0] = id.internal[127]; /* the last byte, so that all have come */
    note("init", *comm);
    group = *comm;
    return begin(*comm);
}

int ncclCommGetAsyncError(struct comm *comm, int *state) {
    enter(comm, "asked-after-end");
    if (comm->polls && !never_ready) comm->polls--;
    *state = comm->polls ? IN_PROGRESS : SUCCESS;
    leave(comm);
    return SUCCESS;
}

int ncclCommUserRank(struct comm *comm, int *rank) {
    int code = need(comm, "rank-after-end");
    *rank = 0;
    leave(comm);
    return code;
}

int ncclCommFinalize(struct comm *comm) {
    int code = need(comm, "finalized-after-end");
    if (comm->finalized++) wrong("finalized-twice", comm);
    note("finalize", comm);
    if (code == SUCCESS) code = begin(comm);
    leave(comm);
    return code;
}

int ncclCommDestroy(struct comm *comm) {
    int code = need(comm, "destroyed-after-end");
    if (!comm->finalized) wrong("destroyed-at-once", comm);
    note("destroy", comm);
    comm->ended = 1;
    leave(comm);
    return code;
}

int ncclCommAbort(struct comm *comm) {
    enter(comm, "aborted-after-end");
    note("abort", comm);
    comm->ended = 1;
    leave(comm);
    return SUCCESS;
}

int ncclGroupStart(void) { depth++; return SUCCESS; }

int ncclGroupEnd(void) {
    depth--;
    if (!grouped) return SUCCESS;
    group = grouped;
    grouped = NULL;
    note("end", group);
    return begin(group);
}

int ncclAllReduce(const void *a, void *b, size_t n, int type, int op, struct comm *comm, void *stream) {
    (void)a, (void)b, (void)n, (void)op, (void)stream;
    return operation("all_reduce", comm, type);
}

int ncclReduceScatter(const void *a, void *b, size_t n, int type, int op, struct comm *comm, void *stream) {
    (void)a, (void)b, (void)n, (void)op, (void)stream;
    return operation("reduce_scatter", comm, type);
}

int ncclBroadcast(const void *a, void *b, size_t n, int type, int root, struct comm *comm, void *stream) {
    (void)a, (void)b, (void)n, (void)root, (void)stream;
    return operation("broadcast", comm, type);
}

int ncclAllGather(const void *a, void *b, size_t n, int type, struct comm *comm, void *stream) {
    (void)a, (void)b, (void)n, (void)stream;
    return operation("all_gather", comm, type);
}

int ncclSend(const void *a, size_t n, int type, int peer, struct comm *comm, void *stream) {
    (void)a, (void)n, (void)peer, (void)stream;
    return operation("send", comm, type);
}

int ncclRecv(void *a, size_t n, int type, int peer, struct comm *comm, void *stream) {
    (void)a, (void)n, (void)peer, (void)stream;
    return operation("recv", comm, type);
}
