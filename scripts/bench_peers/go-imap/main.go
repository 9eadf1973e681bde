// Watches mailboxes with go-imap v1 and asks for scans over HTTP; the job is a JSON file.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	idle "github.com/emersion/go-imap-idle"
	"github.com/emersion/go-imap/client"
)

const (
	timeout       = 30 * time.Second
	logoutTimeout = 3 * time.Second
)

type mailbox struct{ ID, UserID, Email, Password string }

type job struct {
	ImapHost         string
	ImapPort         int
	CaFile           string
	ScanURL          string
	Secret           string
	ConnectsAtOnce   int
	ScansAtOnce      int
	ReconnectSeconds float64
	Mailboxes        []mailbox
}

type peer struct {
	job      job
	tls      *tls.Config
	http     *http.Client
	connects chan struct{}
	scans    chan struct{}
	stop     chan struct{}
	ended    sync.WaitGroup
}

func newPeer(path string) (*peer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	p := &peer{stop: make(chan struct{})}
	if err := json.Unmarshal(text, &p.job); err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(p.job.CaFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	p.tls = &tls.Config{RootCAs: roots, ServerName: p.job.ImapHost}
	p.connects = make(chan struct{}, p.job.ConnectsAtOnce)
	p.scans = make(chan struct{}, p.job.ScansAtOnce)
	p.http = &http.Client{
		Timeout:   timeout,
		Transport: &http.Transport{MaxIdleConnsPerHost: p.job.ScansAtOnce},
	}
	return p, nil
}

func (p *peer) watch(box mailbox) {
	defer p.ended.Done()
	var seen uint32
	for {
		p.session(box, &seen)
		select {
		case <-p.stop:
			return
		case <-time.After(time.Duration(p.job.ReconnectSeconds * float64(time.Second))):
		}
	}
}

// session lasts until the connection is lost or the program is to stop.
func (p *peer) session(box mailbox, seen *uint32) error {
	updates := make(chan client.Update, 16)
	c, uidNext, err := p.open(box, updates)
	if err != nil {
		return err
	}
	defer c.Terminate()
	over, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- idle.NewClient(c).Idle(over) }()
	if uidNext != *seen {
		p.scan(box, "catch-up")
		*seen = uidNext
	}
	for {
		select {
		case update := <-updates:
			if _, ok := update.(*client.MailboxUpdate); ok {
				*seen = 0 // what is announced counts anew at the next connection
				p.scan(box, "exists")
			}
		case err := <-done:
			return err
		case <-p.stop:
			close(over)
			<-done
			c.Timeout = logoutTimeout
			return c.Logout()
		}
	}
}

func (p *peer) open(box mailbox, updates chan client.Update) (*client.Client, uint32, error) {
	p.connects <- struct{}{}
	defer func() { <-p.connects }()
	address := fmt.Sprintf("%s:%d", p.job.ImapHost, p.job.ImapPort)
	c, err := client.DialWithDialerTLS(&net.Dialer{Timeout: timeout}, address, p.tls)
	if err != nil {
		return nil, 0, err
	}
	c.ErrorLog = log.New(io.Discard, "", 0)
	if err := c.Login(box.Email, box.Password); err != nil {
		c.Terminate()
		return nil, 0, err
	}
	status, err := c.Select("INBOX", true)
	if err != nil {
		c.Terminate()
		return nil, 0, err
	}
	c.Updates = updates
	return c, status.UidNext, nil
}

// scan asks until the scan is made.
func (p *peer) scan(box mailbox, reason string) {
	body, _ := json.Marshal(map[string]string{
		"connectionId": box.ID, "userId": box.UserID, "reason": reason,
	})
	for p.post(body) != nil {
		select {
		case <-p.stop:
			return
		case <-time.After(time.Second):
		}
	}
}

func (p *peer) post(body []byte) error {
	p.scans <- struct{}{}
	defer func() { <-p.scans }()
	request, err := http.NewRequest("POST", p.job.ScanURL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("x-admin-secret", p.job.Secret)
	request.Header.Set("content-type", "application/json")
	answer, err := p.http.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}

func main() {
	p, err := newPeer(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	p.ended.Add(len(p.job.Mailboxes))
	for _, box := range p.job.Mailboxes {
		go p.watch(box)
	}
	<-terminate
	close(p.stop)
	ended := make(chan struct{})
	go func() { p.ended.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(2 * logoutTimeout):
	}
}
