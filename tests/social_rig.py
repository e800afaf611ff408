"""Social archives in the shapes the platforms give them."""

from __future__ import annotations

import json
from typing import Any

from tests.documents_rig import zipped

LINKEDIN = {
    "Profile.csv": (
        "\ufeffFirst Name,Last Name,Maiden Name,Address,Birth Date,Headline,Summary,Industry,Zip Code,Geo Location\n"
        'Ada,Byrne,,1 Hidden Street,12 May,Engineer,"I build bridges.\nAnd boats.",Shipbuilding,8000,"Porto, PT"\n'
    ),
    "Positions.csv": (
        "Company Name,Title,Description,Location,Started On,Finished On\n"
        "Harbour Ltd,Lead Engineer,Ferries,Porto,Jan 2020,\n"
        ",,,,,2019\n"
        "Dock AG,Engineer,,,2016,2019\n"
    ),
    "Education.csv": (
        "School Name,Start Date,End Date,Notes,Degree Name,Activities\nUniversity of Porto,2010,2015,,MSc,Rowing\n"
    ),
    "Skills.csv": "Name\nWelding\nPython\n",
    "Shares.csv": (
        "Date,ShareLink,ShareCommentary,SharedUrl,MediaUrl,Visibility\n"
        '2024-03-01 08:30:00,https://l.example/s/1,"Launch day!""\n""""\n""See ""you"" there",https://b.example,,MEMBER\n'
        "2024-03-02 08:30:00,https://l.example/s/2,,https://c.example,,MEMBER\n"
        "yesterday,https://l.example/s/3,No time,,,MEMBER\n"
        "2024-03-04 08:30:00,https://l.example/s/4,too,many,fields,MEMBER,in,here\n"
    ),
    "Comments.csv": 'Date,Link,Message\n2024-04-01 09:00:00,https://l.example/c/1,"She said \\"yes\\", twice"\n',
    "messages.csv": (
        '"CONVERSATION ID","CONVERSATION TITLE","FROM","SENDER PROFILE URL","TO","DATE","SUBJECT","CONTENT","FOLDER",'
        '"IS MESSAGE DRAFT"\n'
        '"2","","Ada Byrne","u","Bob Stone","2024-05-01 10:00:00 UTC","","<p>Hi</p><p>Bob &amp; co</p>","INBOX","No"\n'
        '"2","","Bob Stone","u","Ada Byrne","2024-05-01 10:05:00 UTC","","Hi, a < b","INBOX","No"\n'
        '"2","","Ada Byrne","u","Bob Stone","2024-05-01 10:06:00 UTC","","unsent","INBOX","Yes"\n'
    ),
    "Connections.csv": "Notes:\n\nFirst Name,Last Name\nBob,Stone\n",
}

REDDIT = {
    "statistics.csv": "statistic,value\naccount name,ada_b\n",
    "posts.csv": (
        "id,permalink,date,ip,subreddit,gildings,title,url,body\n"
        'p1,https://r.example/p1,2024-01-02 03:04:05 UTC,,boats,0,My boat,https://i.example/,"It floats.\n\nMostly."\n'
        "p2,https://r.example/p2,2024-01-03 03:04:05 UTC,,boats,0,[deleted],,[removed]\n"
        ",https://r.example/p3,2024-01-03 03:04:05 UTC,,boats,0,No id,,\n"
    ),
    "comments.csv": (
        "id,permalink,date,ip,subreddit,gildings,link,parent,body,media\n"
        "c1,https://r.example/c1,2024-01-04 03:04:05 UTC,,boats,0,l,,Use epoxy \\o/,\n"
    ),
    "comment_headers.csv": "id,permalink,date\nc1,https://r.example/c1,2024-01-04 03:04:05 UTC\n",
    "messages_archive.csv": (
        "id,permalink,thread_id,date,ip,from,to,subject,body\n"
        "m1,https://r.example/m1,t,2024-01-05 03:04:05 UTC,,ada_b,bob_s,Paint,Which colour?\n"
        "m2,https://r.example/m2,t,2024-01-05 04:04:05 UTC,,bob_s,ada_b,Paint,Blue\n"
    ),
    "chat_history.csv": (
        "message_id,created_at,updated_at,username,message,thread_parent_message_id,channel_url,subreddit,channel_name\n"
        "h1,2024-01-06 03:04:05 UTC,,ada_b,ahoy,,u,,Harbour\n"
    ),
}

LONG = "This is a long post about a boat that I have built with my own hands. " * 6

TWEETS: list[Any] = [
    {
        "tweet": {
            "id_str": "11",
            "full_text": "Launch &amp; party at https://t.co/a https://t.co/m",
            "created_at": "Wed May 01 10:00:00 +0000 2024",
            "entities": {
                "urls": [{"url": "https://t.co/a", "expanded_url": "https://b.example"}],
                "media": [{"url": "https://t.co/m", "expanded_url": "https://x.example/photo/1"}],
            },
        }
    },
    {"tweet": {"id_str": "12", "full_text": "RT @bob: boats!", "created_at": "Thu May 02 10:00:00 +0000 2024"}},
    {"tweet": {"id_str": 13, "full_text": "a number for an id"}},
    {
        "tweet": {
            "id_str": "14",
            "full_text": LONG[:200] + "… https://t.co/l",
            "created_at": "Fri May 03 10:00:00 +0000 2024",
        }
    },
]


def assigned(name: str, value: Any) -> str:
    return f"window.YTD.{name}.part0 = {json.dumps(value)}"


TWITTER = {
    "data/account.js": assigned(
        "account",
        [{"account": {"accountId": "7", "username": "ada_b", "accountDisplayName": "Ada", "email": "hidden"}}],
    ),
    "data/profile.js": assigned("profile", [{"profile": {"description": {"bio": "Boats", "location": "Porto"}}}]),
    "data/tweets.js": assigned("tweets", TWEETS),
    "data/tweets-part1.js": assigned("tweets", [{"tweet": {"id_str": "15", "full_text": "from the second part"}}]),
    "data/note-tweet.js": assigned(
        "note_tweet",
        [{"noteTweet": {"noteTweetId": "90", "createdAt": "2024-05-03T10:00:00.000Z", "core": {"text": LONG}}}],
    ),
    "data/direct-messages.js": assigned(
        "direct_messages",
        [
            {
                "dmConversation": {
                    "conversationId": "7-8",
                    "messages": [
                        {
                            "messageCreate": {
                                "id": "d1",
                                "senderId": "7",
                                "text": "Ahoy",
                                "createdAt": "2024-05-04T10:00:00.000Z",
                            }
                        },
                        {"messageCreate": {"id": "d2", "senderId": "8", "text": "Hi", "createdAt": "1714817100000"}},
                        {"joinConversation": {"initiatingUserId": "8"}},
                        {"messageCreate": {"id": "d3", "senderId": "7", "text": ["no", "text"]}},
                    ],
                }
            }
        ],
    ),
    "data/like.js": assigned("like", [{"like": {"tweetId": "1", "fullText": "not mine"}}]),
    "data/deleted-tweets.js": assigned("deleted_tweets", [{"tweet": {"id_str": "99", "full_text": "taken back"}}]),
}

FILES: dict[str, dict[str, str]] = {"linkedin": LINKEDIN, "reddit": REDDIT, "twitter": TWITTER}


def archive(platform: str) -> bytes:
    return zipped(dict(FILES[platform]))
