package broker_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/broker"
)

// bad is a packet that must be refused, and the MQTT 5 code for it.
type bad struct {
	name string
	ver  byte
	code byte
	in   []byte
}

// connectWith is a CONNECT with free choice of everything.
func connectWith(ver, flags byte, rest ...[]byte) []byte {
	return packet(0x10, append([][]byte{str("MQTT"), {ver, flags, 0, 60}}, rest...)...)
}

// badFirst are first packets that must be refused.
func badFirst() []bad {
	none := raw(0) // an empty block of properties
	props := func(b ...byte) []byte { return append(varint(len(b)), b...) }
	auth := bytes.Join([][]byte{{21}, str("SCRAM")}, nil)
	user := bytes.Repeat(append(raw(38), append(str("k"), str("v")...)...), 65_000)
	return []bad{
		{"empty name", 0, 0x84, packet(0x10, str(""), raw(4, 2, 0, 60), str("a"))},
		{"wrong name", 0, 0x84, packet(0x10, str("MQTX"), raw(4, 2, 0, 60), str("a"))},
		{"MQIsdp", 0, 0x84, packet(0x10, str("MQIsdp"), raw(3, 2, 0, 60), str("a"))},
		{"level 3", 0, 0x84, connectWith(3, 2, str("a"))},
		{"level 6", 0, 0x84, connectWith(6, 2, none, str("a"))},
		{"level of a bridge", 0, 0x84, connectWith(0x84, 2, str("a"))},
		{"no body", 0, 0x81, raw(0x10, 0)},
		{"name cut short", 0, 0x81, packet(0x10, raw(0, 4, 'M', 'Q'))},
		{"reserved flags of CONNECT", 0, 0x81, raw(0x11, 0)},
		{"length of five bytes", 0, 0x81, raw(0x10, 0x80, 0x80, 0x80, 0x80, 1)},
		{"256 MiB announced", 0, 0x95, raw(0x10, 0xff, 0xff, 0xff, 0x7f)},
		{"4 KiB and one byte announced", 0, 0x95, append(raw(0x10), varint(4096-2)...)},
		{"PUBLISH first", 0, 0x82, packet(0x30, str("a"))},
		{"PINGREQ first", 0, 0x82, ping()},
		{"type 0", 0, 0x81, raw(0x00, 0)},
		{"AUTH first", 0, 0x82, raw(0xf0, 0)},

		{"reserved connect flag", 5, 0x81, connectWith(5, 3, none, str("a"))},
		{"will with QoS 3", 5, 0x81, connectWith(5, 0x1e, none, str("a"), none, str("w"), str("x"))},
		{"will QoS without a will", 5, 0x81, connectWith(5, 0x0a, none, str("a"))},
		{"will retain without a will", 5, 0x81, connectWith(5, 0x22, none, str("a"))},
		{"empty will topic", 5, 0x81, connectWith(5, 6, none, str("a"), none, str(""), str("x"))},
		{"client id not UTF-8", 5, 0x81, connectWith(5, 2, none, str("a\xff"))},
		{"client id with U+0000", 5, 0x81, connectWith(5, 2, none, str("a\x00b"))},
		{"client id with a surrogate", 5, 0x81, connectWith(5, 2, none, str("\xed\xa0\x80"))},
		{"client id with an overlong slash", 5, 0x81, connectWith(5, 2, none, str("\xc0\xaf"))},
		{"user name not UTF-8", 5, 0x81, connectWith(5, 0x82, none, str("a"), str("\xff"))},
		{"user name announced but missing", 5, 0x81, connectWith(5, 0x82, none, str("a"))},
		{"password cut short", 5, 0x81, connectWith(5, 0xc2, none, str("a"), str("u"), raw(0, 9, 'x'))},
		{"bytes behind the last field", 5, 0x81, connectWith(5, 2, none, str("a"), raw(0))},
		{"properties longer than the packet", 5, 0x81, connectWith(5, 2, raw(9))},
		{"length of properties of five bytes", 5, 0x81, connectWith(5, 2, raw(0x80, 0x80, 0x80, 0x80, 1))},
		{"length of properties padded", 5, 0x81, connectWith(5, 2, raw(0x80, 0), str("a"))},
		{"unknown property", 5, 0x81, connectWith(5, 2, props(99, 1), str("a"))},
		{"property of a server", 5, 0x81, connectWith(5, 2, props(18, 0, 1, 'x'), str("a"))},
		{"property of another packet", 5, 0x81, connectWith(5, 2, props(35, 0, 1), str("a"))},
		{"property cut short", 5, 0x81, connectWith(5, 2, props(33, 0), str("a"))},
		{"property twice", 5, 0x82, connectWith(5, 2, props(33, 0, 9, 33, 0, 9), str("a"))},
		{"receive maximum 0", 5, 0x82, connectWith(5, 2, props(33, 0, 0), str("a"))},
		{"maximum packet size 0", 5, 0x82, connectWith(5, 2, props(39, 0, 0, 0, 0), str("a"))},
		{"request problem information 2", 5, 0x82, connectWith(5, 2, props(23, 2), str("a"))},
		{"authentication method", 5, 0x8c, connectWith(5, 2, props(auth...), str("a"))},
		{"authentication data alone", 5, 0x82, connectWith(5, 2, props(22, 0, 1, 'x'), str("a"))},
		{"65,000 user properties", 0, 0x95, connectWith(5, 2, props(user...), str("a"))},
		{"user property not UTF-8", 5, 0x81, connectWith(5, 2, props(38, 0, 1, 'k', 0, 1, 0xff), str("a"))},
		{"response topic of the will with wildcard", 5, 0x82, connectWith(5, 6, none, str("a"), props(8, 0, 1, '#'), str("w"), str("x"))},

		{"empty client id with a session", 4, 0x85, connectWith(4, 0, str(""))},
		{"password without user name", 4, 0x81, connectWith(4, 0x42, str("a"), str("p"))},
		{"reserved connect flag", 4, 0x81, connectWith(4, 3, str("a"))},
		{"client id cut short", 4, 0x81, connectWith(4, 2, raw(0, 9, 'a'))},
	}
}

// badLater are packets that must be refused from an authenticated client.
func badLater() []bad {
	both := func(name string, code byte, in ...byte) []bad {
		return []bad{{name, 4, code, in}, {name, 5, code, in}}
	}
	id := raw(0, 1)
	all := [][]bad{
		both("second CONNECT", 0x82, connect(4, "x")...),
		both("CONNACK", 0x82, 0x20, 2, 0, 0),
		both("SUBACK", 0x82, 0x90, 3, 0, 1, 0),
		both("UNSUBACK", 0x82, 0xb0, 2, 0, 1),
		both("PINGRESP", 0x82, 0xd0, 0),
		both("AUTH", 0x82, 0xf0, 0),
		both("type 0", 0x81, 0x00, 0),
		both("PUBLISH with QoS 3", 0x81, 0x36, 5, 0, 1, 'a', 0, 1),
		both("PUBLISH with QoS 0 and DUP", 0x81, 0x38, 3, 0, 1, 'a'),
		both("PUBLISH without a topic field", 0x81, 0x30, 1, 0),
		both("PUBLISH with QoS 1 too short for its id", 0x81, 0x32, 3, 0, 1, 'a'),
		both("flags of SUBSCRIBE", 0x81, 0x80, 6, 0, 1, 0, 1, 'a', 0),
		both("flags of UNSUBSCRIBE", 0x81, 0xa0, 5, 0, 1, 0, 1, 'a'),
		both("flags of PUBREL", 0x81, 0x60, 2, 0, 1),
		both("flags of PUBACK", 0x81, 0x41, 2, 0, 1),
		both("flags of PUBREC", 0x81, 0x52, 2, 0, 1),
		both("flags of PUBCOMP", 0x81, 0x74, 2, 0, 1),
		both("flags of PINGREQ", 0x81, 0xc8, 0),
		both("flags of DISCONNECT", 0x81, 0xe1, 0),
		both("PINGREQ with a body", 0x81, 0xc0, 1, 0),
		both("PUBACK without id", 0x81, 0x40, 0),
		both("PUBACK with half an id", 0x81, 0x40, 1, 0),
		both("PUBACK with id 0", 0x81, 0x40, 2, 0, 0),
		both("PUBREC with id 0", 0x81, 0x50, 2, 0, 0),
		both("PUBREL with id 0", 0x81, 0x62, 2, 0, 0),
		both("PUBCOMP with id 0", 0x81, 0x70, 2, 0, 0),
		both("length of five bytes", 0x81, 0x30, 0x80, 0x80, 0x80, 0x80, 1),
		both("128 KiB and a byte announced", 0x95, append(raw(0x30), varint(128<<10-3)...)...),
		both("256 MiB announced", 0x95, 0x30, 0xff, 0xff, 0xff, 0x7f),
		both("256 MiB of SUBSCRIBE announced", 0x95, 0x82, 0xff, 0xff, 0xff, 0x7f),
		{
			{"SUBSCRIBE with id 0", 4, 0x81, packet(0x82, u16(0), str("a"), raw(0))},
			{"SUBSCRIBE with nothing", 4, 0x81, raw(0x82, 0)},
			{"SUBSCRIBE without a filter", 4, 0x82, packet(0x82, id)},
			{"SUBSCRIBE without options", 4, 0x81, packet(0x82, id, str("a/b"))},
			{"SUBSCRIBE whose second filter is without options", 4, 0x81, packet(0x82, id, str("a"), raw(1), str("b"))},
			{"SUBSCRIBE with half a filter", 4, 0x81, packet(0x82, id, raw(0, 9, 'a'))},
			{"SUBSCRIBE with an empty filter", 4, 0x81, packet(0x82, id, str(""), raw(0))},
			{"SUBSCRIBE with QoS 3", 4, 0x81, packet(0x82, id, str("a"), raw(3))},
			{"SUBSCRIBE with options of MQTT 5", 4, 0x81, packet(0x82, id, str("a"), raw(4))},
			{"SUBSCRIBE not UTF-8", 4, 0x81, packet(0x82, id, str("\xff"), raw(0))},
			{"UNSUBSCRIBE with id 0", 4, 0x81, packet(0xa2, u16(0), str("a"))},
			{"UNSUBSCRIBE without a filter", 4, 0x82, packet(0xa2, id)},
			{"PUBACK with a reason", 4, 0x81, raw(0x40, 3, 0, 1, 0)},
			{"DISCONNECT with a reason", 4, 0x81, raw(0xe0, 1, 0)},

			{"SUBSCRIBE with id 0", 5, 0x81, packet(0x82, u16(0), raw(0), str("a"), raw(0))},
			{"SUBSCRIBE without properties", 5, 0x81, packet(0x82, id)},
			{"SUBSCRIBE without a filter", 5, 0x82, packet(0x82, id, raw(0))},
			{"SUBSCRIBE without options", 5, 0x81, packet(0x82, id, raw(0), str("a/b"))},
			{"SUBSCRIBE whose second filter is without options", 5, 0x81, packet(0x82, id, raw(0), str("a"), raw(1), str("b"))},
			{"SUBSCRIBE with QoS 3", 5, 0x81, packet(0x82, id, raw(0), str("a"), raw(3))},
			{"SUBSCRIBE with retain handling 3", 5, 0x82, packet(0x82, id, raw(0), str("a"), raw(0x30))},
			{"SUBSCRIBE with reserved options", 5, 0x81, packet(0x82, id, raw(0), str("a"), raw(0x40))},
			{"SUBSCRIBE with identifier 0", 5, 0x82, packet(0x82, id, raw(2, 11, 0), str("a"), raw(0))},
			{"SUBSCRIBE with two identifiers", 5, 0x82, packet(0x82, id, raw(4, 11, 1, 11, 2), str("a"), raw(0))},
			{"SUBSCRIBE with a topic alias", 5, 0x81, packet(0x82, id, raw(3, 35, 0, 1), str("a"), raw(0))},
			{"SUBSCRIBE with too many properties", 5, 0x97, packet(0x82, id, varint(8192), make([]byte, 8192), str("a"), raw(0))},
			{"UNSUBSCRIBE without a filter", 5, 0x82, packet(0xa2, id, raw(0))},
			{"UNSUBSCRIBE with an identifier", 5, 0x81, packet(0xa2, id, raw(2, 11, 1), str("a"))},
			{"length padded", 5, 0x81, raw(0xc0, 0x80, 0)},
			{"PUBACK with an unknown property", 5, 0x81, packet(0x40, id, raw(0, 2, 99, 0))},
			{"PUBACK with bytes left over", 5, 0x81, packet(0x40, id, raw(0, 0, 0))},
			{"PUBLISH without properties", 5, 0x81, packet(0x30, str(""))},
			{"DISCONNECT with a server reference", 5, 0x81, packet(0xe0, raw(0, 4, 28, 0, 1, 'x'))},
			{"DISCONNECT with expiry twice", 5, 0x82, packet(0xe0, raw(0, 10, 17, 0, 0, 0, 1, 17, 0, 0, 0, 1))},
		},
	}
	var flat []bad
	for _, list := range all {
		flat = append(flat, list...)
	}
	return flat
}

// good are packets that must pass unchanged from an authenticated client.
func good(ver byte) [][]byte {
	var none []byte
	if ver == 5 {
		none = raw(0)
	}
	id := raw(0, 1)
	list := [][]byte{
		packet(0x82, id, none, str("a/b"), raw(1)),
		packet(0x82, id, none, str("a/b"), raw(1), str("$share/g/c"), raw(2)),
		packet(0xa2, id, none, str("a/b"), str("c")),
		packet(0x30, str("a"), none, []byte("payload")),
		packet(0x30, str("a"), none),
		packet(0x3d, str("a"), id, none, []byte("retained again")),
		packet(0x34, str("a"), id, none, bytes.Repeat([]byte("x"), 100_000)),
		raw(0x40, 2, 0, 1), raw(0x50, 2, 0, 1), raw(0x62, 2, 0, 1), raw(0x70, 2, 0, 1),
		ping(),
		raw(0xe0, 0),
	}
	if ver == 5 {
		user := append(raw(38), append(str("k"), str("v")...)...)
		props := func(b []byte) []byte { return append(varint(len(b)), b...) }
		list = append(list,
			packet(0x82, id, props(append(raw(11, 0xff, 0x7f), bytes.Repeat(user, 2)...)), str("a"), raw(0x2d)),
			packet(0xa2, id, props(user), str("a")),
			packet(0x40, id, raw(0x10)), packet(0x40, id, raw(0x87), props(append(raw(31, 0, 1, 'x'), user...))),
			packet(0xe0, raw(4)), packet(0xe0, raw(0), props(raw(17, 0, 0, 0, 0))),
		)
	}
	return list
}

// goodFirst are CONNECTs that must pass unchanged.
func goodFirst() [][]byte {
	props := func(b ...byte) []byte { return append(varint(len(b)), b...) }
	return [][]byte{
		connect(4, "a"), connect(5, "a"),
		connectWith(4, 2, str("")), connectWith(5, 0, raw(0), str("")),
		connectWith(4, 0x2e, str("a"), str("w"), str("")),
		connectWith(5, 0x42, raw(0), str("a"), str("a password alone")),
		connectWith(5, 6, props(17, 0, 0, 0, 9, 33, 0, 9, 39, 0, 0, 4, 0, 34, 0, 9, 23, 0, 25, 1, 38, 0, 0, 0, 0), str("a"),
			props(24, 0, 0, 0, 1, 1, 1, 2, 0, 0, 0, 1, 3, 0, 1, 'x', 8, 0, 1, 'y', 9, 0, 1, 0xff, 38, 0, 1, 'k', 0, 1, 'v'), str("w"), str("x")),
		connectWith(4, 2, str("\ufeff\U0001f600")),
		append(append(raw(0x10), varint(4096-3)...), append(append(str("MQTT"), 4, 0xc2, 0, 60), append(append(str("a"), str("u")...), str(strings.Repeat("p", 4096-3-10-3-3-2))...)...)...),
	}
}

// through is what the guard lets through of in, read in these chunks, and the code with which it refuses the rest.
func through(in []byte, chunked func(io.Reader) io.Reader) (out []byte, code byte) {
	out, err := io.ReadAll(broker.NewGuard(chunked(bytes.NewReader(in)), true))
	var refused *broker.GuardError
	if errors.As(err, &refused) {
		return out, refused.Code
	}
	return out, 0
}

func atOnce(r io.Reader) io.Reader { return r }

func TestWireGuardRefuses(t *testing.T) {
	for _, b := range badFirst() {
		t.Run(fmt.Sprintf("first/%s v%d", b.name, b.ver), func(t *testing.T) {
			for how, chunked := range map[string]func(io.Reader) io.Reader{"at once": atOnce, "byte by byte": iotest.OneByteReader} {
				if out, code := through(b.in, chunked); code != b.code || len(out) > 0 {
					t.Errorf("%s: code 0x%02x, want 0x%02x; let through %x", how, code, b.code, out)
				}
			}
		})
	}
	for _, b := range badLater() {
		t.Run(fmt.Sprintf("later/%s v%d", b.name, b.ver), func(t *testing.T) {
			before := append(connect(b.ver, "a"), ping()...)
			for how, chunked := range map[string]func(io.Reader) io.Reader{"at once": atOnce, "byte by byte": iotest.OneByteReader} {
				out, code := through(append(bytes.Clone(before), b.in...), chunked)
				if code != b.code || !bytes.Equal(out, before) {
					t.Errorf("%s: code 0x%02x, want 0x%02x; let through %x", how, code, b.code, out)
				}
			}
		})
	}
}

func TestWireGuardPasses(t *testing.T) {
	for i, in := range goodFirst() {
		t.Run(fmt.Sprintf("CONNECT %d unchanged", i), func(t *testing.T) {
			for _, chunked := range []func(io.Reader) io.Reader{atOnce, iotest.OneByteReader, iotest.HalfReader, iotest.DataErrReader} {
				if out, code := through(in, chunked); code != 0 || !bytes.Equal(out, in) {
					t.Errorf("code 0x%02x, let through %d of %d bytes", code, len(out), len(in))
				}
			}
		})
	}
	for _, ver := range []byte{4, 5} {
		t.Run(fmt.Sprintf("a whole session of version %d unchanged", ver), func(t *testing.T) {
			in := bytes.Join(append([][]byte{connect(ver, "a")}, good(ver)...), nil)
			for _, chunked := range []func(io.Reader) io.Reader{atOnce, iotest.OneByteReader, iotest.HalfReader, iotest.DataErrReader} {
				out, code := through(in, chunked)
				if code != 0 {
					t.Errorf("code 0x%02x", code)
				}
				if !bytes.Equal(in, out) {
					t.Errorf("%d of %d bytes came through unchanged", len(out), len(in))
				}
			}
		})
	}
}

// A packet that is cut at any byte is never let through in part, except PUBLISH, which mochi completes.
func TestWireGuardCutPackets(t *testing.T) {
	for _, ver := range []byte{4, 5} {
		hello := connect(ver, "a")
		for n := range hello {
			if out, code := through(hello[:n], atOnce); len(out) > 0 || code != 0 {
				t.Errorf("CONNECT cut at %d: code 0x%02x, %x", n, code, out)
			}
		}
		for i, p := range good(ver) {
			if len(p) > 1000 {
				continue
			}
			for n := range p {
				for _, chunked := range []func(io.Reader) io.Reader{atOnce, iotest.OneByteReader} {
					out, code := through(append(bytes.Clone(hello), p[:n]...), chunked)
					out = out[len(hello):]
					if code != 0 || (p[0]>>4 != packets.Publish && len(out) > 0) || !bytes.HasPrefix(p, out) {
						t.Errorf("packet %d cut at %d: code 0x%02x, %x", i, n, code, out)
					}
				}
			}
		}
	}
}

func TestWireGuardLimits(t *testing.T) {
	big := packet(0x30, str("a"), bytes.Repeat([]byte("x"), 5000))
	t.Run("a client that is not authenticated gets 4 KiB", func(t *testing.T) {
		g := broker.NewGuard(bytes.NewReader(append(connect(4, "a"), big...)), false)
		_, err := io.ReadAll(g)
		var refused *broker.GuardError
		if !errors.As(err, &refused) || refused.Code != 0x95 {
			t.Error(err)
		}
	})
	t.Run("what comes together with CONNECT is judged after authentication", func(t *testing.T) {
		hello := connect(4, "a")
		g := broker.NewGuard(bytes.NewReader(append(bytes.Clone(hello), big...)), false)
		buf := make([]byte, 4096)
		n, err := g.Read(buf)
		if err != nil || !bytes.Equal(buf[:n], hello) {
			t.Fatalf("%x %v", buf[:n], err)
		}
		g.Authenticated().Store(true)
		if rest, err := io.ReadAll(g); err != nil || !bytes.Equal(rest, big) {
			t.Error(len(rest), err)
		}
	})
	t.Run("what is announced is not allocated", func(t *testing.T) {
		in := append(connect(4, "a"), append(raw(0x82), varint(128<<10-4)...)...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 100 {
			if out, code := through(in, atOnce); code != 0 || len(out) != len(connect(4, "a")) {
				t.Fatal(code, len(out))
			}
		}
		runtime.ReadMemStats(&after)
		if each := (after.TotalAlloc - before.TotalAlloc) / 100; each > 8<<10 {
			t.Errorf("%d bytes allocated for a packet of which 4 bytes came", each)
		}
	})
}
