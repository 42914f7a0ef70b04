/*
 * Lua with all its memory in a pool of 1 MiB: a hard limit for a script. When it is reached the script gets an error that it
 * can catch, and goes on.
 *
 *   cc -std=c11 -O2 -pthread lua.c $(pkg-config --cflags --libs mempool lua5.4) -o lua && ./lua
 */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <mempool.h>
#include <stdio.h>

static unsigned char memory[1 << 20];

static void *allocate(void *pool, void *block, size_t old_size, size_t size) {
    (void)old_size; /* what kind of object it is, when there is no block */
    if (size == 0) {
        mempool_free(pool, block);
        return NULL;
    }
    return mempool_realloc(pool, block, size);
}

static const char script[] =
    "local function fill(n) local t = {} for i = 1, n do t[i] = 'text ' .. i end return #t end\n"
    "print(fill(1000))\n"
    "print(pcall(fill, 1000000))\n"
    "collectgarbage()\n"
    "print(fill(1000), collectgarbage('count') < 1024)\n";

int main(void) {
    mempool_t *pool;
    if (mempool_init(memory, sizeof memory, NULL, &pool) != MEMPOOL_OK)
        return puts(mempool_last_message()), 1;
    lua_State *lua = lua_newstate(allocate, pool);
    if (lua == NULL)
        return 1;
    luaL_openlibs(lua);
    if (luaL_dostring(lua, script))
        return puts(lua_tostring(lua, -1)), 1;
    lua_close(lua);

    mempool_stats_t stats = MEMPOOL_STATS_INIT;
    mempool_stats(pool, &stats);
    printf("%d blocks left, %d bad frees, %s\n", (int)stats.used_count, (int)stats.rejected_frees,
           mempool_check(pool) == MEMPOOL_OK ? "sound" : mempool_last_message());
    return mempool_detach(pool);
}
