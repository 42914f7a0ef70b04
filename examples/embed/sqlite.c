/*
 * SQLite with all its memory in a pool of 8 MiB: a hard limit. When it is reached SQLite says so, and goes on.
 *
 *   cc -std=c11 -O2 -pthread sqlite.c $(pkg-config --cflags --libs mempool) -lsqlite3 -o sqlite && ./sqlite
 */
#include <mempool.h>
#include <sqlite3.h>
#include <stdio.h>

static unsigned char memory[8 << 20];
static mempool_t *pool;

static void *get(int size) {
    return mempool_malloc(pool, (size_t)size);
}

static void give(void *block) {
    mempool_free(pool, block);
}

static void *change(void *block, int size) {
    return mempool_realloc(pool, block, (size_t)size);
}

static int size_of(void *block) {
    return (int)mempool_usable_size(pool, block);
}

/* What SQLite asks for afterwards, so that it uses all that it gets. */
static int round_up(int size) {
    return (int)mempool_good_size(pool, (size_t)size);
}

static int start(void *unused) {
    (void)unused;
    return mempool_init(memory, sizeof memory, NULL, &pool) == MEMPOOL_OK ? SQLITE_OK : SQLITE_NOMEM;
}

static void end(void *unused) {
    (void)unused;
    mempool_detach(pool);
}

static int print(void *unused, int count, char **values, char **names) {
    (void)unused, (void)count;
    return printf("%s = %s\n", names[0], values[0]) < 0;
}

static int run(sqlite3 *db, const char *text) {
    int status = sqlite3_exec(db, text, print, NULL, NULL);
    if (status != SQLITE_OK)
        printf("%s\n", sqlite3_errstr(status));
    return status;
}

int main(void) {
    sqlite3_mem_methods methods = { get, give, change, size_of, round_up, start, end, NULL };
    sqlite3 *db;
    if (sqlite3_config(SQLITE_CONFIG_MALLOC, &methods) != SQLITE_OK || sqlite3_open(":memory:", &db) != SQLITE_OK)
        return 1;
    run(db, "CREATE TABLE numbers(n INTEGER PRIMARY KEY, text TEXT)");
    const char *fill = "WITH RECURSIVE up(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up WHERE n < %d)"
                       " INSERT INTO numbers SELECT n, 'the number ' || n FROM up";
    char text[300];
    run(db, sqlite3_snprintf(sizeof text, text, fill, 10000));
    run(db, "DELETE FROM numbers");
    if (run(db, sqlite3_snprintf(sizeof text, text, fill, 1000000)) != SQLITE_NOMEM)
        return 1;
    run(db, "SELECT count(*) AS after FROM numbers");
    run(db, sqlite3_snprintf(sizeof text, text, fill, 10000));
    run(db, "SELECT count(*) AS later FROM numbers");
    sqlite3_close(db);

    mempool_stats_t stats = MEMPOOL_STATS_INIT;
    mempool_stats(pool, &stats);
    printf("%s; %d bad frees\n", mempool_check(pool) == MEMPOOL_OK ? "sound" : mempool_last_message(), (int)stats.rejected_frees);
    return sqlite3_shutdown();
}
