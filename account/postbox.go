package account

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// Mail is a message to one person, in plain text of short lines. It redacts itself
// in every format: it may carry a link that signs its reader in.
type Mail struct{ To, Subject, Text string }

// Format redacts.
func (Mail) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[a mail]")) }

// Mailer hands mails over to a mail server.
type Mailer interface {
	// Send hands one mail over. ErrMailRefused when it will never be taken, any other
	// error when it may be later. Its errors hold neither the address nor the text. It
	// is called on several goroutines at once and obeys its context.
	Send(ctx context.Context, m Mail) error
}

// ErrMailRefused is a mail server's last word about a mail.
var ErrMailRefused = errors.New("account: the mail server refuses the mail for good")

// ErrMailBusy says that more mails wait than may.
var ErrMailBusy = registry.E(registry.Unavailable, "mail_unavailable", "Mails cannot be sent at the moment. Try again.")

const (
	maxMails    = 1024 // that wait, in memory
	maxPostmen  = 4    // conversations with the mail server at once
	postTime    = 30 * time.Second
	firstPause  = time.Second
	longerPause = 30 * time.Second
)

// postbox sends mails after the request that asked for them has been answered, and
// again while the mail server does not take them. It is memory, not a table: a link
// signs its reader in, and must be neither in the database nor in its backups in
// clear. A mail that a crash loses is asked for again by the person who waits for
// it. Each mail has a goroutine of its own, at most maxMails in all; the postbox
// owns them, and close waits for them.
type postbox struct {
	mailer  Mailer
	log     *slog.Logger
	slots   chan struct{} // one for each mail that waits
	postmen chan struct{} // one for each conversation
	closing chan struct{} // closed: no more pauses
	over    context.Context
	stop    context.CancelFunc // ends conversations too

	mu     sync.Mutex
	closed bool
	mails  sync.WaitGroup
}

func newPostbox(mailer Mailer, log *slog.Logger) *postbox {
	p := &postbox{
		mailer: mailer, log: log, slots: make(chan struct{}, maxMails), postmen: make(chan struct{}, maxPostmen), closing: make(chan struct{}),
	}
	p.over, p.stop = context.WithCancel(context.Background())
	return p
}

// slot is the right to post one mail.
type slot struct {
	box  *postbox
	used bool
}

// reserve gives a slot while there is one and spare others are left; ok is false when too
// many mails wait, and when the postbox is closed.
func (p *postbox) reserve(spare int) (s *slot, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.slots)+spare >= maxMails {
		return nil, false
	}
	select {
	case p.slots <- struct{}{}:
		p.mails.Add(1)
		return &slot{box: p}, true
	default:
		return nil, false
	}
}

// giveBack returns a slot that was not used.
func (s *slot) giveBack() {
	if !s.used {
		s.used = true
		s.box.done()
	}
}

// post sends the mail in the background, for as long as it is worth something.
func (s *slot) post(m Mail, life time.Duration) { s.postThen(m, life, func() {}) }

// postThen is post, and calls then once the mail is sent or refused for good; not when it
// is given up.
func (s *slot) postThen(m Mail, life time.Duration, then func()) {
	s.used = true
	ctx, cancel := context.WithTimeout(s.box.over, life)
	go func() {
		defer s.box.done()
		defer cancel()
		if s.box.deliver(ctx, m) {
			then()
		}
	}()
}

func (p *postbox) done() {
	<-p.slots
	p.mails.Done()
}

// deliver tries until the mail is taken or refused, which is settled, or worth nothing any
// more. When the postbox closes, it tries once more without a pause.
func (p *postbox) deliver(ctx context.Context, m Mail) (settled bool) {
	for pause := firstPause; ; pause = min(2*pause, longerPause) {
		last := p.isClosing()
		err := p.try(ctx, m)
		switch {
		case err == nil:
			return true
		case errors.Is(err, ErrMailRefused):
			p.log.Warn("a mail was refused", "error", err)
			return true
		case last || ctx.Err() != nil:
			p.log.Error("a mail was given up", "error", err)
			return false
		}
		p.log.Warn("a mail could not be sent; it is tried again", "pause", pause, "error", err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-p.closing:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

func (p *postbox) isClosing() bool {
	select {
	case <-p.closing:
		return true
	default:
		return false
	}
}

// try is one conversation with the mail server.
func (p *postbox) try(ctx context.Context, m Mail) error {
	select {
	case p.postmen <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.postmen }()
	ctx, cancel := context.WithTimeout(ctx, postTime)
	defer cancel()
	return p.mailer.Send(ctx, m)
}

// close takes no more mails and waits for those that are there, each of which gets
// one more try; what is not sent when ctx ends is lost, and counted in the log.
func (p *postbox) close(ctx context.Context) {
	p.mu.Lock()
	first := !p.closed
	p.closed = true
	p.mu.Unlock()
	if first {
		close(p.closing)
	}
	sent := make(chan struct{})
	go func() {
		p.mails.Wait()
		close(sent)
	}()
	select {
	case <-sent:
	case <-ctx.Done():
		p.log.Error("mails were lost at the end", "mails", len(p.slots))
	}
	p.stop()
	<-sent
}

// CloseMail sends what waits to be sent, and takes no more. It returns when all is
// sent, or ctx has ended and the conversations with the mail server are cut.
func (s *Service) CloseMail(ctx context.Context) {
	if s.mail != nil {
		s.mail.close(ctx)
	}
}
