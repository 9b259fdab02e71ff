// Uses processor time in every way in which it is easily lost: in threads that
// have died, in one that lives, in children that nobody has waited for, and in
// the first thread. It begins with a line on its standard input and then prints
// the nanoseconds that the process and that its children have used.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { DEAD = 40, CHILDREN = 10 };

static int64_t used(clockid_t clock) {
	struct timespec t;
	if (clock_gettime(clock, &t) != 0) abort();
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void burn(int milliseconds) {
	int64_t end = used(CLOCK_THREAD_CPUTIME_ID) + milliseconds * INT64_C(1000000);
	while (used(CLOCK_THREAD_CPUTIME_ID) < end) {
	}
}

static void *die(void *unused) {
	burn(10);
	return unused;
}

static int ready[2];

static void *live(void *unused) {
	burn(200);
	if (write(ready[1], "", 1) != 1) abort();
	pause();
	return unused;
}

int main(void) {
	int told[2];
	int64_t children = 0;
	pthread_t thread;
	if (pipe(told) != 0 || pipe(ready) != 0 || getchar() != '\n') abort();
	if (pthread_create(&thread, NULL, live, NULL) != 0) abort();
	for (int i = 0; i < DEAD; i++) {
		if (pthread_create(&thread, NULL, die, NULL) != 0 || pthread_join(thread, NULL) != 0) abort();
	}
	for (int i = 0; i < CHILDREN; i++) {
		int64_t child;
		pid_t pid = fork();
		if (pid < 0) abort();
		if (pid == 0) {
			burn(10);
			child = used(CLOCK_PROCESS_CPUTIME_ID);
			_exit(write(told[1], &child, sizeof child) != sizeof child);
		}
		if (read(told[0], &child, sizeof child) != sizeof child) abort();
		children += child;
	}
	burn(100);
	char byte;
	if (read(ready[0], &byte, 1) != 1) abort();
	printf("%lld %lld\n", (long long)used(CLOCK_PROCESS_CPUTIME_ID), (long long)children);
	fflush(stdout);
	while (getchar() != EOF) {
	}
	return 0;
}
