package mail

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/account"
)

// Outbox writes mails into a folder, for development: one file a mail, *.eml, named
// by its time. It is safe for concurrent use.
type Outbox struct {
	folder string
	from   string
	now    func() time.Time
}

var _ account.Mailer = (*Outbox)(nil)

// NewOutbox makes the folder, readable by its owner alone, as the files are.
func NewOutbox(folder, from string, now func() time.Time) (*Outbox, error) {
	if err := CheckFrom(from); err != nil {
		return nil, fmt.Errorf("mail: the sender is %w", err)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("mail: the outbox: %w", err)
	}
	if now == nil {
		now = time.Now
	}
	return &Outbox{folder, from, now}, nil
}

// Send implements account.Mailer. A file that can be seen is whole.
func (o *Outbox) Send(_ context.Context, m account.Mail) error {
	now := o.now().UTC()
	msg, err := message(o.from, m, now)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if _, err := msg.WriteTo(&text); err != nil {
		return errors.New("mail: the mail could not be written down")
	}
	name := filepath.Join(o.folder, now.Format("20060102T150405.000000Z")+"-"+strings.ToLower(rand.Text()[:6]))
	if err := write(name+".tmp", text.Bytes()); err != nil {
		return fmt.Errorf("mail: the outbox: %w", errors.Join(err, os.RemoveAll(name+".tmp")))
	}
	if err := os.Rename(name+".tmp", name+".eml"); err != nil {
		return fmt.Errorf("mail: the outbox: %w", err)
	}
	return nil
}

func write(name string, text []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}
