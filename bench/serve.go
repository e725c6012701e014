package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// probe is what can be asked of every server that runs in a process of ours.
type probe struct{ profiling *os.File }

// do answers "gc" (collect, give free memory back, say what is left), "profile" (write a CPU profile to File) and
// "profile end".
func (p *probe) do(_ context.Context, r request) (reply, error) {
	switch r.Do {
	case "gc":
		runtime.GC() // finalizers and cleanups of the first collection free more in the second
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return reply{Heap: int64(m.HeapAlloc), Stack: int64(m.StackInuse)}, nil
	case "profile":
		f, err := os.Create(r.File)
		if err != nil {
			return reply{}, err
		}
		p.profiling = f
		return reply{}, pprof.StartCPUProfile(f)
	case "profile end":
		pprof.StopCPUProfile()
		return reply{}, p.profiling.Close()
	}
	return reply{}, fmt.Errorf("a server cannot do %q", r.Do)
}

// mochi is the engine as it comes: its own TCP and TLS listeners, everybody may do everything, nothing is kept.
type mochi struct {
	probe
	after func() error // closes what the hook needs
}

// newMochi starts mochi with its default settings but for two that are ours too: nothing is logged, and the broker's
// own statistics, which stop the world and copy the list of clients, come every five minutes instead of each second.
func newMochi(s start, hook mqtt.Hook) (*mochi, reply, error) {
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler), SysTopicResendInterval: 300})
	m := &mochi{after: func() error { return nil }}
	if err := server.AddHook(new(allowAll), nil); err != nil {
		return nil, reply{}, err
	}
	if hook != nil {
		if err := server.AddHook(hook, nil); err != nil {
			return nil, reply{}, err
		}
	}
	pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
	if err != nil {
		return nil, reply{}, err
	}
	plain := listeners.NewTCP(listeners.Config{ID: "plain", Address: "127.0.0.1:0"})
	secure := listeners.NewTCP(listeners.Config{ID: "tls", Address: "127.0.0.1:0", TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12,
	}})
	if err := errors.Join(server.AddListener(plain), server.AddListener(secure)); err != nil {
		return nil, reply{}, err
	}
	if err := server.Serve(); err != nil {
		return nil, reply{}, err
	}
	return m, reply{Plain: plain.Address(), TLS: secure.Address()}, nil
}

// close leaves the server to the end of the process: mochi's Close can wait for itself while connections end.
func (m *mochi) close() error { return m.after() }

// allowAll lets everybody do everything: mochi refuses all without such a hook.
type allowAll struct{ mqtt.HookBase }

// ID implements mqtt.Hook.
func (*allowAll) ID() string { return "allow-all" }

// Provides implements mqtt.Hook.
func (*allowAll) Provides(b byte) bool {
	return bytes.IndexByte([]byte{mqtt.OnConnectAuthenticate, mqtt.OnACLCheck}, b) >= 0
}

// OnConnectAuthenticate implements mqtt.Hook.
func (*allowAll) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }

// OnACLCheck implements mqtt.Hook.
func (*allowAll) OnACLCheck(*mqtt.Client, string, bool) bool { return true }
