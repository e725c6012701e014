package broker_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/broker"
)

// FuzzWireGuard feeds arbitrary bytes in arbitrary pieces. Whatever the pieces, the same bytes must come through and
// the same code must refuse the rest, and what comes through must not make mochi's decoder panic.
func FuzzWireGuard(f *testing.F) {
	for _, b := range badFirst() {
		if len(b.in) < 8<<10 {
			f.Add(b.in, uint8(3), true)
		}
	}
	for _, in := range goodFirst() {
		f.Add(in, uint8(1), false)
	}
	for _, b := range badLater() {
		if len(b.in) < 8<<10 {
			f.Add(append(connect(b.ver, "a"), b.in...), uint8(7), true)
		}
	}
	for _, ver := range []byte{4, 5} {
		for _, p := range good(ver) {
			if len(p) < 8<<10 {
				f.Add(append(connect(ver, "a"), p...), uint8(2), true)
			}
		}
	}
	f.Fuzz(func(t *testing.T, in []byte, piece uint8, authenticated bool) {
		read := func(src io.Reader) ([]byte, byte, byte) {
			g := broker.NewGuard(src, authenticated)
			out, err := io.ReadAll(g)
			var refused *broker.GuardError
			if errors.As(err, &refused) {
				if refused.Code < 0x80 {
					t.Fatalf("refused with code 0x%02x", refused.Code)
				}
				return out, refused.Code, g.Version()
			}
			if err != nil {
				t.Fatal(err)
			}
			return out, 0, g.Version()
		}
		whole, code, version := read(bytes.NewReader(in))
		if !bytes.HasPrefix(in, whole) {
			t.Fatalf("let through %x, which is no beginning of %x", whole, in)
		}
		for name, src := range map[string]io.Reader{
			"pieces": &pieces{bytes.NewReader(in), int(piece) + 1},
			"bytes":  iotest.OneByteReader(bytes.NewReader(in)),
		} {
			out, c, v := read(src)
			if c != code || v != version || !bytes.Equal(out, whole) {
				t.Errorf("%s: code 0x%02x and %x, at once 0x%02x and %x", name, c, out, code, whole)
			}
		}
		decode(t, whole)
	})
}

// pieces reads in pieces of n bytes at most.
type pieces struct {
	r io.Reader
	n int
}

func (p *pieces) Read(b []byte) (int, error) { return p.r.Read(b[:min(len(b), p.n)]) }

// decode decodes a stream with mochi's decoder, which must not panic, and checks with eyes of its own that each filter
// of a SUBSCRIBE has its options byte.
func decode(t *testing.T, stream []byte) {
	r := bufio.NewReader(bytes.NewReader(stream))
	version := byte(4)
	for {
		first, body, err := readPacket(r)
		if err != nil {
			return
		}
		pk := packets.Packet{ProtocolVersion: version}
		if pk.FixedHeader.Decode(first) != nil {
			t.Fatalf("mochi does not accept the header %02x that came through", first)
		}
		pk.FixedHeader.Remaining = len(body)
		switch pk.FixedHeader.Type {
		case packets.Connect:
			if err := pk.ConnectDecode(body); err != nil {
				t.Fatalf("mochi does not accept the CONNECT %x: %v", body, err)
			}
			version = pk.ProtocolVersion
		case packets.Subscribe:
			optionsFollow(t, body, version)
			if err := pk.SubscribeDecode(body); err != nil {
				t.Fatalf("mochi does not accept the SUBSCRIBE %x: %v", body, err)
			}
		case packets.Unsubscribe:
			if err := pk.UnsubscribeDecode(body); err != nil {
				t.Fatalf("mochi does not accept the UNSUBSCRIBE %x: %v", body, err)
			}
		case packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp:
			if err := pk.PubackDecode(body); err != nil {
				t.Fatalf("mochi does not accept the acknowledgement %x: %v", body, err)
			}
		case packets.Disconnect:
			if err := pk.DisconnectDecode(body); err != nil {
				t.Fatalf("mochi does not accept the DISCONNECT %x: %v", body, err)
			}
		case packets.Publish:
			_ = pk.PublishDecode(body) // mochi judges it
		}
	}
}

func optionsFollow(t *testing.T, body []byte, version byte) {
	at := 2
	if version == 5 {
		n, shift := 0, 0
		for {
			n |= int(body[at]&127) << shift
			shift += 7
			at++
			if body[at-1] < 128 {
				break
			}
		}
		at += n
	}
	for at < len(body) {
		at += 2 + int(body[at])<<8 + int(body[at+1])
		if at >= len(body) {
			t.Fatalf("SUBSCRIBE without an options byte came through: %x", body)
		}
		at++
	}
}
