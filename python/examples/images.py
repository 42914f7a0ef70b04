"""Workers process images: handed over by offset, pickled through a queue, or in a SharedMemory each.

    python images.py                      processes some images, and shows that they came back right
    python images.py --measure            the table: images a second, three ways, medians of several runs

Each way the parent makes images, workers invert them, and the parent reads one pixel of each that comes back. A few are
under way at any time. What is measured is the way there and back: the work is small on purpose.
"""

import argparse
import multiprocessing
import statistics
import time
from multiprocessing.shared_memory import SharedMemory

import numpy as np

import mempool

UNDER_WAY = 8


def invert(image):
    np.subtract(255, image, out=image)


# ---- By offset: what goes through the queue is a gift, some hundred bytes whatever the image ------------------------


def pool_worker(todo, done):
    for gift in iter(todo.get, None):
        image = gift.take()
        invert(image)
        done.put(image.give())


def pool_send(pool, shape, value):
    image = pool.array("u8", shape)
    image[:] = value
    return image.give()


def pool_receive(gift):
    image = gift.take()
    pixel = int(image[-1, -1])
    image.free()
    return pixel


# ---- Pickled: the queue carries every byte, twice -------------------------------------------------------------------


def pickle_worker(todo, done):
    while (image := todo.get()) is not None:
        invert(image)
        done.put(image)


def pickle_send(_, shape, value):
    return np.full(shape, value, np.uint8)


def pickle_receive(image):
    return int(image[-1, -1])


# ---- A SharedMemory each: created, opened, unlinked for every image ------------------------------------------------


def shared_worker(todo, done):
    for name, shape in iter(todo.get, None):
        memory = SharedMemory(name)
        image = np.ndarray(shape, np.uint8, memory.buf)
        invert(image)
        del image
        memory.close()
        done.put((name, shape))


def shared_send(_, shape, value):
    memory = SharedMemory(create=True, size=shape[0] * shape[1])
    image = np.ndarray(shape, np.uint8, memory.buf)
    image[:] = value
    del image
    memory.close()
    return memory.name, shape


def shared_receive(message):
    name, shape = message
    memory = SharedMemory(name)
    pixel = memory.buf[shape[0] * shape[1] - 1]
    memory.close()
    memory.unlink()
    return pixel


WAYS = {
    "by offset": (pool_worker, pool_send, pool_receive),
    "pickled": (pickle_worker, pickle_send, pickle_receive),
    "SharedMemory": (shared_worker, shared_send, shared_receive),
}


def process(way, shape, count, workers, start="fork"):
    """Sends `count` images through the workers; returns the seconds it took."""
    work, send, receive = WAYS[way]
    context = multiprocessing.get_context(start)
    todo, done = context.Queue(), context.Queue()
    with mempool.Pool.create(None, 2 * UNDER_WAY * shape[0] * shape[1] + (1 << 20)) as pool:
        crew = [context.Process(target=work, args=(todo, done), daemon=True) for _ in range(workers)]
        for worker in crew:
            worker.start()

        def run(images):
            total = 0
            for number in range(images + UNDER_WAY):
                if number >= UNDER_WAY:
                    total += receive(done.get())
                if number < images:
                    todo.put(send(pool, shape, number % 251))
            if total != sum(255 - number % 251 for number in range(images)):
                raise SystemExit(f"{way}: the images came back wrong")

        run(UNDER_WAY)  # everyone has begun, and the memory been touched
        began = time.perf_counter()
        run(count)
        seconds = time.perf_counter() - began
        for _ in crew:
            todo.put(None)
        for worker in crew:
            worker.join()
        pool.check()
        if pool.stats().used_count:
            raise SystemExit(f"{pool.stats().used_count} images were lost")
    return seconds


def measure(runs, workers):
    print(f"{workers} workers, images there and back a second: median (least to most) of {runs} runs\n")
    print(f"{'image':>12}" + "".join(f"{way:>26}" for way in WAYS))
    for side, count in ((64, 2000), (256, 2000), (1024, 400), (4096, 40)):
        rates = {way: [] for way in WAYS}
        for _ in range(runs):  # in turn, so that the machine's moods meet all
            for way in WAYS:
                rates[way].append(count / process(way, (side, side), count, workers))
        row = "".join(
            f"{f'{statistics.median(r):,.0f} ({min(r):,.0f} to {max(r):,.0f})':>26}" for r in rates.values()
        )
        size = side * side // 1024
        print(f"{f'{size} KiB' if size < 1024 else f'{size // 1024} MiB':>12}{row}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--start", choices=("fork", "spawn"), default="fork")
    asked = parser.parse_args()
    if asked.measure:
        measure(asked.runs, asked.workers)
        return
    for way in WAYS:
        seconds = process(way, (512, 512), 50, asked.workers, asked.start)
        print(f"{way}: 50 images of 256 KiB in {seconds:.3f} s")


if __name__ == "__main__":
    main()
