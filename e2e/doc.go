// Package e2e holds the tests that run the real binary: server, agents and
// replays as processes of their own, killed, cut off and robbed of their
// queue. It has no code of its own.
package e2e
