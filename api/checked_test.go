package api

import (
	"net/http"
	"reflect"
	"sync"
	"testing"

	"example.org/odometer/api/apicheck"
)

// checked is a server whose every exchange is held to its OpenAPI document.
type checked struct {
	*router
	handler http.Handler
}

func (c checked) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.handler.ServeHTTP(w, r) }

// serverOf returns the server of d.
func serverOf(t *testing.T, d Deps) checked { return check(t, NewServer(d), serverChecker()) }

// ServerOf is serverOf for the tests outside this package.
func ServerOf(t *testing.T, d Deps) http.Handler { return serverOf(t, d) }

// AnswerTypes are the Go types that routes declare as their answers.
func AnswerTypes(t *testing.T) map[reflect.Type]bool {
	types := make(map[reflect.Type]bool)
	for _, row := range serverOf(t, NewFixture(t).Deps).table {
		for _, r := range row.replies {
			for _, c := range r.content {
				if _, is := c.of.(shape); c.of != nil && !is {
					types[reflect.TypeOf(c.of)] = true
				}
			}
		}
	}
	return types
}

// agentOf returns the agent's server with what d has of it.
func agentOf(t *testing.T, d Deps) checked {
	return check(t, NewAgentServer(AgentDeps{
		Version: d.Version, Clock: d.Clock, Auth: d.Auth, Health: d.Health, Machine: d.Machine, Stats: d.Stats, Limits: d.Limits,
	}), agentChecker())
}

func check(t *testing.T, h http.Handler, c *apicheck.Checker) checked {
	return checked{h.(*router), c.Handler(h, func(err error) { t.Error(err) })}
}

var (
	serverChecker = sync.OnceValue(func() *apicheck.Checker { return checkerOf(OpenAPI) })
	agentChecker  = sync.OnceValue(func() *apicheck.Checker { return checkerOf(AgentOpenAPI) })
)

func checkerOf(document []byte) *apicheck.Checker {
	c, err := apicheck.New(document)
	if err != nil {
		panic(err)
	}
	return c
}
