// Package broker is the engine room: it owns the mochi server, the listeners and every connection's goroutine, so
// that the rest of the program sees MQTT packets and never a socket.
//
// mochi v2.7.9 is fast and trusting. Everything hostile, slow or broken about a network is dealt with here, under it:
//
//		TCP -> socket (a Write never blocks) -> tls.Conn or WebSocket frames -> wireGuard (frames and judges) -> mochi
//
//	  - listener.go accepts, and survives a lack of descriptors.
//	  - roster.go admits before TLS: total, per address, by rate; it knows every open connection.
//	  - serve.go is the life of one connection: TLS handshake, mochi, clean-up, last word, close. Nothing that panics
//	    below it leaves it, and the guard hook's clean-up always runs.
//	  - gate.go bounds the TLS handshakes that compute at once, and keeps a storm of them in the accept queue.
//	  - conn.go is the connection as mochi and the hooks see it (Conn).
//	  - socket.go is the writer that never blocks, with a bounded queue and a stall limit.
//	  - wireguard.go, connect.go, subscribe.go, property.go and field.go are the wire guard: they hand mochi only packets
//	    it can survive.
//	  - reason.go classifies how a connection ended.
//	  - websocket.go is MQTT over WebSocket through all of the same.
//	  - certificate.go and devca.go are TLS; logging.go keeps secrets out of mochi's log lines.
//
// # Goroutines
//
// One goroutine per listener accepts. Each connection has two: its own (handshake, mochi's read loop, clean-up), which
// Broker starts and waits for, and mochi's write loop, which ends with it. A drainer lives beside a socket only while
// bytes wait for a slow peer. Shutdown waits for all of them.
//
// # Locks
//
// Broker.mu (state), roster.mu, gate.mu, Conn.mu and socket.mu. Conn.mu may be held while socket.mu is taken; no other pair is
// ever nested, and none is held while a hook runs.
package broker
