/* The same, with all that compilers can be told about the functions. */
#define MEMPOOL_STRICT
#include "header_c.c"
