"""Python objects of many sizes, in threads and processes; prints what must not depend on the allocator."""

import hashlib
import json
import multiprocessing
import threading
import zlib


def work(seed):
    table = {}
    for i in range(20000):
        key = (i * 7919 + seed) % 5003
        table[key] = [key] * (key % 37) + [str(key) * (key % 11)]
        if i % 3 == 0:
            table.pop((key * 31) % 5003, None)
    text = json.dumps(sorted(table.items()))
    return hashlib.sha256(zlib.compress(text.encode()) + bytearray(100000 + seed)).hexdigest()


def main():
    answers = [None] * 4

    def put(i):
        answers[i] = work(i)

    threads = [threading.Thread(target=put, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with multiprocessing.get_context("fork").Pool(3) as pool:
        answers += pool.map(work, range(4, 8))
    print(*answers, sep="\n")


if __name__ == "__main__":
    main()
