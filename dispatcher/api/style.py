"""The documentation page's style sheet."""

from typing import Final

CSS: Final = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5b6675;--line:#e2e7ee;--page:#fff;
--side:#f6f8fb;--code:#f0f3f8;--get:#0b6bcb;--post:#157f4c;--patch:#a35b00;--delete:#b3261e;--link:#0b57b0}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--soft:#9aa5b4;--line:#2b333f;--page:#12161c;
--side:#171c24;--code:#1f2630;--get:#6db3ff;--post:#5fd197;--patch:#f0b35a;--delete:#ff8a80;
--link:#8ec1ff}}
*{box-sizing:border-box}html{scroll-behavior:smooth;scroll-padding-top:1rem}
body{margin:0;display:grid;grid-template-columns:19rem minmax(0,1fr);color:var(--ink);
background:var(--page);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}
nav{position:sticky;top:0;height:100vh;overflow:auto;padding:1.25rem;background:var(--side);
border-right:1px solid var(--line);font-size:13px}
nav .home{font-size:17px;font-weight:650;color:var(--ink)}nav small{color:var(--soft)}
nav ul{list-style:none;margin:0;padding:0}nav li{padding:.12rem 0;white-space:nowrap;
overflow:hidden;text-overflow:ellipsis}nav li a{color:var(--ink)}
nav .group{margin:1.1rem 0 .25rem;text-transform:uppercase;letter-spacing:.06em;font-size:11px;
font-weight:650}nav b{display:inline-block;width:3.4rem}
main{padding:2.2rem clamp(1rem,4vw,3.5rem) 6rem;max-width:64rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .6rem}
h2{margin:2.8rem 0 .2rem;font-size:1.25rem;text-transform:capitalize}
h4{margin:1.2rem 0 .4rem;font-size:.8rem;text-transform:uppercase;letter-spacing:.05em;
color:var(--soft)}
details{border:1px solid var(--line);border-radius:8px;margin:.55rem 0;background:var(--page)}
summary{cursor:pointer;padding:.6rem .9rem;display:flex;gap:.8rem;align-items:baseline;
list-style:none}summary::-webkit-details-marker{display:none}
summary:hover{background:var(--side);border-radius:8px}
summary span{color:var(--soft);margin-left:auto;text-align:right}
summary:focus-visible,a:focus-visible{outline:2px solid var(--link);outline-offset:2px}
details>div{padding:.2rem .9rem 1rem;border-top:1px solid var(--line)}
details:target{border-color:var(--link)}
b.get{color:var(--get)}b.post{color:var(--post)}b.patch{color:var(--patch)}
b.delete{color:var(--delete)}summary b{min-width:4rem;font-size:13px}
code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
td code,p code{background:var(--code);border-radius:4px;padding:.05rem .3rem}
pre{background:var(--code);border-radius:8px;padding:.8rem 1rem;overflow:auto;margin:0}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{text-align:left;vertical-align:top;padding:.35rem .6rem .35rem 0;
border-top:1px solid var(--line)}tr:first-child>*{border-top:0}
th{color:var(--soft);font-weight:500;font-size:12px}
em{color:var(--patch);font-style:normal;font-size:12px}
code.s2{color:var(--post)}code.s4,code.s5{color:var(--delete)}
@media(max-width:820px){body{display:block}nav{position:static;height:auto;max-height:40vh;
border-right:0;border-bottom:1px solid var(--line)}summary{flex-wrap:wrap}summary span{margin:0}}
"""
