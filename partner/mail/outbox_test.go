package mail_test

import (
	"bytes"
	"io"
	"mime"
	"mime/quotedprintable"
	netmail "net/mail"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/partner/mail"
)

func TestTheOutboxKeepsWholeMailsForItsOwnerAlone(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "data", "outbox")
	at := time.Date(2026, 3, 4, 5, 6, 7, 89000, time.UTC)
	o, err := mail.NewOutbox(folder, from, func() time.Time { return at })
	if err != nil {
		t.Fatal(err)
	}
	const mails = 20 // in the same microsecond
	var wg sync.WaitGroup
	for range mails {
		wg.Go(func() {
			if err := o.Send(t.Context(), letter()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if info, err := os.Stat(folder); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v", info.Mode(), err)
	}
	files, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != mails {
		t.Errorf("%d files for %d mails", len(files), mails)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil || info.Mode().Perm() != 0o600 || filepath.Ext(f.Name()) != ".eml" {
			t.Errorf("%s: %v, %v", f.Name(), info.Mode(), err)
		}
		text, err := os.ReadFile(filepath.Join(folder, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		checkLetter(t, text)
	}
}

func TestAnOutboxThatCannotBeWrittenSaysSo(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "outbox")
	if err := os.WriteFile(folder, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := mail.NewOutbox(folder, from, nil); err == nil {
		t.Error("a file is taken for a folder")
	}
	if _, err := mail.NewOutbox(t.TempDir(), "nobody", nil); err == nil {
		t.Error("a sender that is none is taken")
	}
	gone := filepath.Join(t.TempDir(), "outbox")
	o, err := mail.NewOutbox(gone, from, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(gone); err != nil {
		t.Fatal(err)
	}
	if err := o.Send(t.Context(), letter()); err == nil {
		t.Error("a mail without a folder is sent")
	}
}

// TestATextBeyondASCIIArrivesAsItWas sends what has names in it that people chose.
func TestATextBeyondASCIIArrivesAsItWas(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "outbox")
	o, err := mail.NewOutbox(folder, from, nil)
	if err != nil {
		t.Fatal(err)
	}
	text := "ann@example.com offers the device \"客厅 = Küche\".\n" + strings.Repeat("长", 60) + "\nEnd.\n"
	if err := o.Send(t.Context(), account.Mail{To: "bob@example.com", Subject: "You are invited", Text: text}); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.eml"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	raw, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	m, err := netmail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "text/plain" || !strings.EqualFold(params["charset"], "utf-8") || m.Header.Get("Content-Transfer-Encoding") != "quoted-printable" {
		t.Errorf("it says %v, %v", m.Header, err)
	}
	got, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if err != nil || strings.ReplaceAll(string(got), "\r\n", "\n") != text {
		t.Errorf("got %q, %v", got, err)
	}
	for _, bad := range []string{"a\x00b\n", "a\r\nBcc: all@example.com\n", "\x1b[31m\n", "\xff\n", strings.Repeat("x", 999)} {
		if err := o.Send(t.Context(), account.Mail{To: "bob@example.com", Subject: "x", Text: bad}); err == nil {
			t.Errorf("%q is sent", bad)
		}
	}
}
