package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
)

// linger is the group commit's default.
const linger = 10 * time.Millisecond

// subscriber is what one writes beside a broker of somebody else's: a client that subscribes to every state topic with
// QoS 1, writes the same rows as the registry in batches of the same kind, and acknowledges a batch when it is durable.
type subscriber struct {
	db       *sqlstore.DB
	store    registry.Store
	conn     net.Conn
	devices  map[string]*known
	finished chan error // the reader has ended

	mu      sync.Mutex
	changed *sync.Cond
	written int
	failure error
}

// known is an enrolled device as the subscriber writes it.
type known struct {
	login
	id       string
	epoch    int64
	firmware string
}

// message is a state message that waits for its commit.
type message struct {
	id      uint16
	topic   string
	payload []byte
}

func newSubscriber(ctx context.Context, s start) (*subscriber, reply, error) {
	db, err := sqlstore.Open(ctx, "sqlite:"+s.Database, sqlstore.Options{})
	if err != nil {
		return nil, reply{}, err
	}
	w := &subscriber{db: db, store: db.Registry(), devices: map[string]*known{}, finished: make(chan error, 1)}
	w.changed = sync.NewCond(&w.mu)
	if err := w.claimAll(ctx, s.Devices); err != nil {
		return nil, reply{}, errors.Join(err, db.Close())
	}
	if err := w.subscribe(s.Addr); err != nil {
		return nil, reply{}, errors.Join(err, db.Close())
	}
	messages := make(chan message, 1<<14)
	go w.read(messages)
	go func() {
		err := w.write(ctx, messages)
		w.mu.Lock()
		w.failure = err
		w.mu.Unlock()
		w.changed.Broadcast()
		w.finished <- err
	}()
	return w, reply{}, nil
}

// claimAll brings every device to the state in which ours has it once it is connected.
func (w *subscriber) claimAll(ctx context.Context, devices int) error {
	var all []*known
	var logins []login
	err := w.store.View(ctx, func(tx registry.Tx) error {
		for i := range devices {
			c, err := tx.Credentialed(ctx, deviceAt(i).id)
			if err != nil {
				return err
			}
			k := &known{login: login{c.DeviceNo, c.Credentials[0].ID}, id: c.DeviceID}
			all, logins = append(all, k), append(logins, k.login)
		}
		return nil
	})
	if err != nil {
		return err
	}
	epochs, err := claim(ctx, w.store, logins, registry.NewIDSource(time.Now))
	if err != nil {
		return err
	}
	for i, k := range all {
		k.epoch = epochs[i]
		w.devices[k.id] = k
	}
	return nil
}

func (w *subscriber) subscribe(addr string) error {
	var err error
	if w.conn, err = net.Dial("tcp", addr); err != nil {
		return err
	}
	l := link{conn: w.conn}
	body := appendString(nil, "MQTT")
	body = append(body, 4, 2, 0, 0) // clean session, no keep-alive
	answer, err := l.exchange(packet(1<<4, appendString(body, "writer")), connack)
	if err != nil || answer[1] != 0 {
		return errors.Join(errRefused, err, w.conn.Close())
	}
	body = append(appendString([]byte{0, 1}, root+"/+/state"), 1)
	answer, err = l.exchange(packet(8<<4|2, body), suback)
	if err != nil || answer[2] != 1 {
		return errors.Join(errRefused, err, w.conn.Close())
	}
	return nil
}

func (w *subscriber) close() error {
	err := w.conn.Close()
	return errors.Join(err, <-w.finished, w.db.Close())
}

// do answers "await": Count messages are durable.
func (w *subscriber) do(_ context.Context, r request) (reply, error) {
	if r.Do != "await" {
		return reply{}, fmt.Errorf("the subscriber cannot do %q", r.Do)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.written < r.Count && w.failure == nil {
		w.changed.Wait()
	}
	return reply{}, w.failure
}

// read takes messages off the wire until the connection ends.
func (w *subscriber) read(messages chan<- message) {
	defer close(messages)
	r := bufio.NewReaderSize(w.conn, 64<<10)
	for {
		first, err := r.ReadByte()
		if err != nil {
			return
		}
		size, err := binary.ReadUvarint(r) // the remaining length has the same form
		if err != nil || size > 1<<20 {
			return
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		const publishQoS1 = 3<<4 | 1<<1
		if first&^8 != publishQoS1 || len(body) < 4 {
			continue
		}
		n := 2 + int(binary.BigEndian.Uint16(body))
		if len(body) < n+2 {
			return
		}
		messages <- message{binary.BigEndian.Uint16(body[n:]), string(body[2:n]), body[n+2:]}
	}
}

// write commits batch after batch: what comes within the linger time of its first message, newest per device.
func (w *subscriber) write(ctx context.Context, messages <-chan message) error {
	var acks []byte
	for m := range messages {
		var batch registry.Batch
		newest := map[string]*registry.StateWrite{}
		acks = acks[:0]
		full := time.After(linger)
		for waiting, open := true, true; waiting && open; {
			if err := w.collect(&batch, newest, m); err != nil {
				return err
			}
			acks = append(acks, puback, 2, byte(m.id>>8), byte(m.id))
			select {
			case m, open = <-messages:
			case <-full:
				waiting = false
			}
		}
		if err := w.store.Commit(ctx, &batch); err != nil {
			return err
		}
		if _, err := w.conn.Write(acks); errors.Is(err, net.ErrClosed) {
			return nil
		} else if err != nil {
			return err
		}
		w.mu.Lock()
		w.written += len(acks) / 4
		w.mu.Unlock()
		w.changed.Broadcast()
	}
	return nil
}

func (w *subscriber) collect(b *registry.Batch, newest map[string]*registry.StateWrite, m message) error {
	id := strings.TrimSuffix(strings.TrimPrefix(m.topic, root+"/"), "/state")
	k := w.devices[id]
	if k == nil {
		return fmt.Errorf("a message of an unknown device %q", id)
	}
	state, err := registry.DecodeState(m.payload)
	if err != nil {
		return nil // the will of a device that is gone; acknowledged like the rest, or it would come again
	}
	write := newest[id]
	if write == nil {
		write = &registry.StateWrite{DeviceNo: k.deviceNo, Epoch: k.epoch}
		newest[id] = write
		b.States = append(b.States, write)
	}
	write.At, write.State = time.Now(), state
	if k.firmware != state.FirmwareVersion {
		k.firmware, write.Firmware = state.FirmwareVersion, true
	}
	return nil
}
